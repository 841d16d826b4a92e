"""Fine-grained parallel VP8 encoding as one Dask graph."""

from excamera_dask.version import __version__

__all__ = ["__version__"]
