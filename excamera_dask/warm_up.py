"""Compiled kernels: made once on this machine, in two processes side by side, and loaded by everyone after that.

The modules with kernels are imported where they run: the process that only sees that all is compiled has no use for them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np

import codec
from codec.frame import Image
from codec.kernel_cache import INTERPRETED, cache_root, complete_mark
from excamera_dask.allocation import keep_freed_memory
from excamera_dask.first_pass import LIBVPX, FirstPassSettings, encode_chunk


def load_kernels() -> None:
    """Run every step of the codec on tiny pictures: loads its kernels, or compiles them where nobody has."""
    rebase_tiny_frames()
    encode_tiny_frames()


def prepare_own_process() -> None:
    """`load_kernels`, in a process that does nothing else than encode."""
    keep_freed_memory()
    load_kernels()


def compile_kernels(notice: Callable[[str], None]) -> None:
    """Compile the kernels unless that is done for these sources; `notice` is told before it begins."""
    marker = complete_mark()
    if INTERPRETED or marker.exists():
        return
    notice("compiling the codec's kernels, once for this version (about a minute)")
    command = [sys.executable, "-c", f"from {__name__} import rebase_tiny_frames as run; run()"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        encode_tiny_frames()
    load_kernels()  # what the other process could not compile shows its error here
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        where = f"{cache_root()} ({error.strerror})"
        notice(f"compiled kernels cannot be kept in {where}: set EXCAMERA_CACHE_DIR to a folder")


def rebase_tiny_frames() -> None:
    """Decode a libvpx stream of two frames, and rebase the second."""
    codec.import_kernels()
    from codec.decoder import decode
    from codec.rebase import rebase

    images = _tiny_images()
    settings = FirstPassSettings(encoder=LIBVPX, passes=1)
    key, inter = encode_chunk(images, settings)
    state, _ = decode(None, key)
    decode(state, inter)
    rebase(state, images[1], inter, state)


def encode_tiny_frames() -> None:
    """Encode a key frame, and an inter frame in place of another; measure an error."""
    codec.import_kernels()
    from codec.encoder import encode_key_frame, replace_key_frame
    from codec.quality import mean_squared_error

    first, second = _tiny_images()
    mean_squared_error(first, second)
    key = encode_key_frame(first, q_index=40)
    replace_key_frame(key.state, second, key.data)


def _tiny_images() -> tuple[Image, Image]:
    shades = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    first, second = (Image(plane, plane[:32, :32], plane[:32, :32]) for plane in (shades, shades.T))
    return first, second
