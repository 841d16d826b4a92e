"""Lambda functions as Dask workers."""
