"""``python -m excamera_dask.cli``: the command where its script is not on PATH."""

from excamera_dask.cli import main

main()
