"""Fine-grained parallel VP8 encoding as one Dask graph.

What users need lies here; it is imported on first use, so that `import excamera_dask` costs
nothing but a look at whose `codec` and `executors` are found.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from excamera_dask import installation
from excamera_dask.version import __version__

if TYPE_CHECKING:
    from excamera_dask.api import encode, plan, submit
    from excamera_dask.errors import ExcameraError
    from excamera_dask.first_pass import FirstPassSettings
    from excamera_dask.lambda_jobs import LambdaCluster
    from excamera_dask.muxing import EncodedVideo
    from excamera_dask.overrides import Reading
    from excamera_dask.planning import Plan
    from excamera_dask.report import EncodeReport
    from excamera_dask.settings import Settings
    from excamera_dask.sources import open_source

_HOMES = {
    "EncodeReport": "excamera_dask.report",
    "EncodedVideo": "excamera_dask.muxing",
    "ExcameraError": "excamera_dask.errors",
    "FirstPassSettings": "excamera_dask.first_pass",
    "LambdaCluster": "excamera_dask.lambda_jobs",
    "Plan": "excamera_dask.planning",
    "Reading": "excamera_dask.overrides",
    "Settings": "excamera_dask.settings",
    "encode": "excamera_dask.api",
    "open_source": "excamera_dask.sources",
    "plan": "excamera_dask.api",
    "submit": "excamera_dask.api",
}

__all__ = [
    "EncodeReport",
    "EncodedVideo",
    "ExcameraError",
    "FirstPassSettings",
    "LambdaCluster",
    "Plan",
    "Reading",
    "Settings",
    "__version__",
    "encode",
    "open_source",
    "plan",
    "submit",
]


__distribution__ = "excamera-dask"

if not installation.is_the_command():
    installation.check_packages()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'excamera_dask' has no attribute {name!r}")
    try:
        home = import_module(_HOMES[name])
    except ImportError:
        installation.check_files()
        raise
    return getattr(home, name)
