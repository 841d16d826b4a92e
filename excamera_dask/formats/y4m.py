"""Raw pictures as YUV4MPEG2."""

from __future__ import annotations

import os
import warnings
from fractions import Fraction
from types import TracebackType

from codec.frame import Image
from excamera_dask.storage import Output, Tell, open_output

Y4M_RANGES = {1: "LIMITED", 2: "FULL"}


class Y4mWriter:
    """Write pictures as YUV4MPEG2 to a path, or to standard output for "-"; a file appears whole or not at all.

    tell: called with a line where a pipe makes us wait for its reader.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        rate: Fraction,
        *,
        sample_aspect: Fraction = Fraction(1),
        range: int = 0,
        tell: Tell = warnings.warn,
    ) -> None:
        self.path = "/dev/stdout" if os.fspath(path) == "-" else os.fspath(path)
        self.header = y4m_header(width, height, rate, sample_aspect=sample_aspect, range=range)
        self._tell = tell
        self._output: Output | None = None

    def __enter__(self) -> Y4mWriter:
        self._output = open_output(self.path, in_order=True, tell=self._tell)
        self._output.file.write(self.header)
        return self

    def write(self, image: Image) -> None:
        assert self._output is not None, "use the writer as a context manager"
        self._output.file.write(b"FRAME\n")
        for plane in image:
            self._output.file.write(plane.tobytes())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._output is not None
        try:
            if kind is None:
                self._output.commit()
        finally:
            self._output.discard()


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
