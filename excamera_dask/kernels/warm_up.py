"""Compiled kernels: made once on this machine, in two processes side by side, and loaded by everyone after that.

The modules with kernels are imported where they run: the process that only sees that all is compiled has no use for them.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np

import codec
from codec.frame import Image
from codec.kernel_cache import INTERPRETED, cache_root, lacking, mark_complete, places
from excamera_dask.allocation import keep_freed_memory
from excamera_dask.first_pass import LIBVPX, FirstPassSettings, encode_chunk

logger = logging.getLogger("excamera")


def load_kernels() -> None:
    """Run every step of the codec on tiny pictures: loads its kernels, or compiles them where nobody has."""
    rebase_tiny_frames()
    encode_tiny_frames()


def prepare_worker() -> None:
    """`load_kernels`, in a worker somewhere; its log tells when they had to be compiled there."""
    load_kernels()
    _, compiled = count_loads()
    if compiled:
        logger.warning(
            "%d kernels were compiled here: `excamera doctor --warm-up`, once on this machine, keeps them in %s",
            len(compiled),
            cache_root(),
        )


def prepare_own_process() -> None:
    """`prepare_worker`, in a process that does nothing else than encode."""
    keep_freed_memory()
    prepare_worker()


def compile_kernels(notice: Callable[[str], None]) -> None:
    """Compile the kernels unless that is done for these sources; `notice` is told before it begins, and why."""
    if INTERPRETED or lacking(cache_root()) is None:
        return
    notice(_announcement())
    with _in_another_process(rebase_tiny_frames):
        encode_tiny_frames()
    load_kernels()  # what the other process could not compile shows its error here
    from codec.kernel_files import FOLDERS, UNSAVED

    try:
        if UNSAVED:
            raise UNSAVED[0]
        mark_complete(FOLDERS)
    except OSError as error:
        where = f"{cache_root()} ({error.strerror})"
        notice(
            f"compiled kernels cannot be kept in {where}, so that each process compiles its own: "
            "set EXCAMERA_CACHE_DIR to a folder"
        )


def _announcement() -> str:
    """That kernels are compiled, why, and where they go if that is not the first choice."""
    root, (first, *_) = cache_root(), places()
    why = next(filter(None, map(lacking, places())), None)
    told = (
        f"compiling the codec's kernels (about a minute): {why}"
        if why
        else "compiling the codec's kernels, once for this version (about a minute)"
    )
    if root == first:
        return told
    return f"{told}; {first} cannot be written, they are kept in {root} (or set EXCAMERA_CACHE_DIR to a folder of yours)"


@contextlib.contextmanager
def _in_another_process(function: Callable[[], None]) -> Iterator[None]:
    """Run one of this module's functions beside the block, if a process can be had; nothing is heard of its failure."""
    command = [
        sys.executable,
        "-c",
        f"from {__name__} import {function.__name__} as run; run()",
    ]
    try:
        beside = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        yield
        return
    with beside:
        yield


def count_loads() -> tuple[int, list[str]]:
    """Kernels of this process that came from the cache, and the names of those that were compiled."""
    from numba.core.dispatcher import Dispatcher

    hits, missed = 0, []
    modules = [module for name, module in sys.modules.items() if name.startswith("codec.")]
    kernels = {
        id(value): value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Dispatcher)
    }
    for kernel in kernels.values():
        hits += sum(kernel.stats.cache_hits.values())
        if kernel.stats.cache_misses:
            missed.append(f"{kernel.py_func.__module__}.{kernel.py_func.__name__}")
    return hits, sorted(missed)


def rebase_tiny_frames() -> None:
    """Decode a libvpx stream of two frames, and rebase the second."""
    codec.import_kernels()
    from codec.decoder import decode
    from codec.encoding.rebase import rebase

    images = _tiny_images()
    settings = FirstPassSettings(encoder=LIBVPX, passes=1)
    key, inter = encode_chunk(images, settings)
    state, _ = decode(None, key)
    decode(state, inter)
    rebase(state, images[1], inter, state)


def encode_tiny_frames() -> None:
    """Encode a key frame, and an inter frame in place of another; measure an error; filter a picture."""
    codec.import_kernels()
    from codec.encoding.encoder import encode_key_frame, replace_key_frame
    from codec.encoding.quality import mean_squared_error
    from codec.encoding.temporal_filter import filter_along_motion

    first, second = _tiny_images()
    filter_along_motion((first, second), 0)
    mean_squared_error(first, second)
    key = encode_key_frame(first, q_index=40)
    replace_key_frame(key.state, second, key.data)


def _tiny_images() -> tuple[Image, Image]:
    shades = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    first, second = (Image(plane, plane[:32, :32], plane[:32, :32]) for plane in (shades, shades.T))
    return first, second
