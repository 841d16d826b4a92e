"""What processes of the local executor import, in the one that they fork off: what fails here is told where they are wanted."""

try:
    import distributed.nanny  # noqa: F401
except Exception as error:
    raise ImportError("Dask cannot be imported") from error  # the fork server prints all others
