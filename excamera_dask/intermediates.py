"""Each chunk's intermediates as IVF files, for those who want to look into a job (`--keep`)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from excamera_dask.errors import ExcameraError
from excamera_dask.formats.containers import Writer
from excamera_dask.formats.ivf import is_shown
from excamera_dask.sources import SourceInfo
from excamera_dask.stages import ChunkResult
from excamera_dask.storage import S3Url, claim_file, full_name, locate
from excamera_dask.storage.errors import reason_of


class Intermediates:
    """NNNNNNNN.first-pass.ivf, .replaced.ivf (one frame) and .final.ivf for each chunk, in a folder or below s3://bucket/key."""

    def __init__(self, folder: str | os.PathLike[str], source: SourceInfo) -> None:
        self.folder = full_name(folder)
        self._source = source
        longest = locate(self._path(0, "first-pass"))
        if isinstance(longest, S3Url):
            return
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise ExcameraError(
                f"{self.folder}: cannot keep intermediates there ({reason_of(error)})"
            ) from None
        claim_file(longest)

    def write(self, result: ChunkResult) -> None:
        """Write what a chunk has."""
        if result.first_pass is not None:
            self._write_ivf(result.chunk, "first-pass", result.first_pass)
        if result.replaced is not None:
            self._write_ivf(result.chunk, "replaced", [result.replaced])
        self._write_ivf(result.chunk, "final", result.packets)

    def _path(self, chunk: int, name: str) -> str:
        return f"{self.folder}/{chunk:08d}.{name}.ivf"

    def _write_ivf(self, chunk: int, name: str, packets: Sequence[bytes]) -> None:
        source = self._source
        with Writer(
            self._path(chunk, name), source.width, source.height, 1 / source.average_rate
        ) as writer:
            shown = 0
            for packet in packets:
                writer.write(packet, shown)
                shown += is_shown(packet)
