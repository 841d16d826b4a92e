"""Numba's files of compiled kernels, in a folder that may be read-only, full or damaged.

Numba gives up a folder that it cannot write, even to read from it, and lets a file that was cut short end the program.
Here what can be read is used, and whatever cannot is compiled, as if it were not there.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    UserProvidedCacheLocator,
)

logger = logging.getLogger("excamera")

FOLDERS: set[str] = set()
"""Where this process's kernels are looked for."""
UNSAVED: list[OSError] = []
"""Why kernels that this process compiled could not be kept."""


class _Folder(UserProvidedCacheLocator):
    def ensure_cache_path(self) -> None:
        with contextlib.suppress(OSError):
            super().ensure_cache_path()


class _KernelFiles(CompileResultCacheImpl):
    _locator_classes: list[type[object]] = [_Folder]  # noqa: RUF012


class KernelCache(FunctionCache):
    """The cache of one kernel, under `numba.config.CACHE_DIR` as it is now; it raises nothing."""

    _impl_class = _KernelFiles

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        FOLDERS.add(str(self.cache_path))

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The compiled kernel, None where there is none that can be read."""
        try:
            return super().load_overload(signature, target)
        except MemoryError:
            raise
        except Exception as error:  # a damaged pickle raises anything
            logger.warning("a compiled kernel in %s is damaged (%s)", self.cache_path, error)
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep a compiled kernel if that is possible; else `UNSAVED` tells why not."""
        try:
            try:
                super().save_overload(signature, compiled)
            except OSError:
                raise
            except Exception:  # the index that it would be added to is damaged
                self.flush()
                super().save_overload(signature, compiled)
        except OSError as error:
            UNSAVED.append(error)
