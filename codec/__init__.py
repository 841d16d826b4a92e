"""VP8 (RFC 6386) in state-passing style: pure functions from states and data to states, pictures and frames.

Names are loaded when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec.bitstream import Frame, parse, serialize
    from codec.decoder import decode
    from codec.encoding.encoder import encode_given_state, encode_key_frame, replace_key_frame
    from codec.encoding.frame_coding import Encoded
    from codec.encoding.rebase import rebase
    from codec.errors import CodecError, InvalidBitstream, InvalidState, UnsupportedFeature
    from codec.frame import Image, Macroblocks, Picture
    from codec.frame_header import FrameHeader
    from codec.state import DecoderState, ProbabilityTables, References

_HOMES = {
    "codec.bitstream": ("Frame", "parse", "serialize"),
    "codec.decoder": ("decode",),
    "codec.encoding.encoder": ("encode_given_state", "encode_key_frame", "replace_key_frame"),
    "codec.errors": ("CodecError", "InvalidBitstream", "InvalidState", "UnsupportedFeature"),
    "codec.frame": ("Image", "Macroblocks", "Picture"),
    "codec.encoding.frame_coding": ("Encoded",),
    "codec.encoding.rebase": ("rebase",),
    "codec.frame_header": ("FrameHeader",),
    "codec.state": ("DecoderState", "ProbabilityTables", "References"),
}

__all__ = [
    "CodecError",
    "DecoderState",
    "Encoded",
    "Frame",
    "FrameHeader",
    "Image",
    "InvalidBitstream",
    "InvalidState",
    "Macroblocks",
    "Picture",
    "ProbabilityTables",
    "References",
    "UnsupportedFeature",
    "decode",
    "encode_given_state",
    "encode_key_frame",
    "import_kernels",
    "parse",
    "rebase",
    "replace_key_frame",
    "serialize",
]


__distribution__ = "excamera-dask"  # whose file this is: others have packages of this name

_KERNELS = (
    "decoder",
    "encoding.encoder",
    "encoding.quality",
    "encoding.rebase",
    "encoding.temporal_filter",
    "encoding.translation",
)
_importing = threading.RLock()


def import_kernels() -> None:
    """Import all modules with kernels, for programs of several threads: numba fails where two begin to import it."""
    with _importing:
        for module in _KERNELS:
            importlib.import_module(f"codec.{module}")


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            with _importing:
                return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
