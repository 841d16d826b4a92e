"""Raw pictures as YUV4MPEG2."""

from __future__ import annotations

import contextlib
import os
import secrets
from fractions import Fraction
from types import TracebackType
from typing import IO

from codec.frame import Image
from excamera_dask.errors import ContainerError

Y4M_RANGES = {1: "LIMITED", 2: "FULL"}


def temporary_name(path: str) -> str:
    """A fresh hidden name beside `path`, for bytes that are renamed to it when they are whole."""
    folder, base = os.path.split(path)
    return os.path.join(folder, f".{base}.{secrets.token_hex(4)}.part")


class Y4mWriter:
    """Write pictures as YUV4MPEG2 to a path, or to standard output for "-"; a file appears whole or not at all."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        rate: Fraction,
        *,
        sample_aspect: Fraction = Fraction(1),
        range: int = 0,
    ) -> None:
        self.path = os.fspath(path)
        self.header = y4m_header(width, height, rate, sample_aspect=sample_aspect, range=range)
        self._temporary = ""
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Y4mWriter:
        if self.path == "-":
            self._file = os.fdopen(os.dup(1), "wb")
        else:
            self._temporary = temporary_name(os.path.abspath(self.path))
            try:
                self._file = open(self._temporary, "xb")
            except OSError as error:
                reason = (error.strerror or "").lower()
                raise ContainerError(f"{self.path}: cannot be written ({reason})") from None
        self._file.write(self.header)
        return self

    def write(self, image: Image) -> None:
        assert self._file is not None, "use the writer as a context manager"
        self._file.write(b"FRAME\n")
        for plane in image:
            self._file.write(plane.tobytes())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        try:
            self._file.close()
            if kind is None and self._temporary:
                os.replace(self._temporary, self.path)
        finally:
            if self._temporary:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._temporary)


def y4m_header(
    width: int,
    height: int,
    rate: Fraction,
    *,
    sample_aspect: Fraction = Fraction(1),
    range: int = 0,
) -> bytes:
    """The first line of a YUV4MPEG2 file of progressive 8-bit 4:2:0 pictures."""
    words = [
        "YUV4MPEG2",
        f"W{width}",
        f"H{height}",
        f"F{rate.numerator}:{rate.denominator}",
        "Ip",
        f"A{sample_aspect.numerator}:{sample_aspect.denominator}",
        "C420jpeg",
    ]
    if range in Y4M_RANGES:
        words.append(f"XCOLORRANGE={Y4M_RANGES[range]}")
    return " ".join(words).encode() + b"\n"
