"""What each frame of a VP8 file says of itself, as plain values for JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

import codec
from codec.bitstream import Frame
from codec.errors import CodecError
from codec.frame import Macroblocks
from codec.frame_header import FrameHeader
from excamera_dask.errors import ContainerError
from excamera_dask.formats.containers import read_packets
from excamera_dask.formats.ivf import Packet

REFERENCES = ("intra", "last", "golden", "altref")
Y_MODES = ("DC_PRED", "V_PRED", "H_PRED", "TM_PRED", "B_PRED") + (
    "NEARESTMV", "NEARMV", "ZEROMV", "NEWMV", "SPLITMV",
)  # fmt: skip
COPIES_TO_GOLDEN = (None, "last", "altref")
COPIES_TO_ALTREF = (None, "last", "golden")


def inspect(
    path: str | os.PathLike[str], macroblocks: bool = False, stream: int | str | None = None
) -> Iterator[dict[str, Any]]:
    """One dictionary a frame, hidden ones included; `macroblocks` adds a grid (rows of columns) for each field.
    stream: as for `read_packets`.

    Raises ContainerError for a file without VP8, and, naming the frame, for data that is not VP8.
    """
    state = None
    for number, packet in enumerate(read_packets(path, stream)):
        try:
            described = (
                _repeat(packet) if not packet.data else _describe(state, packet, macroblocks)
            )
            state, _ = codec.decode(state, packet.data)
        except CodecError as error:
            raise ContainerError(f"{os.fspath(path)}: frame {number}: {error}") from error
        yield {"frame": number, "pts": packet.pts, "bytes": len(packet.data), **described}


def _repeat(packet: Packet) -> dict[str, Any]:
    return {"type": "repeat", "shown": True}


def _describe(
    state: codec.DecoderState | None, packet: Packet, macroblocks: bool
) -> dict[str, Any]:
    frame = codec.parse(state, packet.data)
    described = _header(frame.header) | {"macroblocks": _counts(frame)}
    if macroblocks:
        described["grid"] = _grid(frame.macroblocks)
    return described


def _header(header: FrameHeader) -> dict[str, Any]:
    return {
        "type": "key" if header.key_frame else "inter",
        "shown": header.show,
        "version": header.version,
        "width": header.width,
        "height": header.height,
        "scale": [header.horizontal_scale, header.vertical_scale],
        "q": header.quantizer.y_ac,
        "q_deltas": dict(zip(header.quantizer._fields[1:], header.quantizer[1:], strict=True)),
        "refresh": [
            name
            for name, refreshed in (
                ("last", header.refresh_last),
                ("golden", header.refresh_golden),
                ("altref", header.refresh_altref),
            )
            if refreshed
        ],
        "copy_to_golden": _copy(COPIES_TO_GOLDEN, header.copy_to_golden),
        "copy_to_altref": _copy(COPIES_TO_ALTREF, header.copy_to_altref),
        "sign_bias": {"golden": header.sign_bias_golden, "altref": header.sign_bias_altref},
        "refresh_entropy": header.refresh_entropy,
        "filter": {
            "type": "simple" if header.simple_filter else "normal",
            "level": header.filter_level,
            "sharpness": header.sharpness,
            "deltas": header.filter_deltas._asdict(),
        },
        "segmentation": header.segmentation._asdict(),
        "partitions": 1 << header.log2_partitions,
        "probabilities": {
            "skip_false": header.prob_skip_false if header.skip_enabled else None,
            "intra": header.prob_intra,
            "last": header.prob_last,
            "golden": header.prob_golden,
        },
    }


def _copy(names: tuple[str | None, ...], flag: int) -> str | None:
    return names[flag] if flag < len(names) else None


def _counts(frame: Frame) -> dict[str, Any]:
    mbs = frame.macroblocks
    return {
        "rows": mbs.y_mode.shape[0],
        "columns": mbs.y_mode.shape[1],
        "references": _histogram(mbs.reference, REFERENCES),
        "y_modes": _histogram(mbs.y_mode, Y_MODES),
        "with_coefficients": int(np.count_nonzero(mbs.coded)),
    }


def _histogram(values: np.ndarray, names: tuple[str, ...]) -> dict[str, int]:
    counts = np.bincount(values.ravel(), minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=False) if count}


def _grid(mbs: Macroblocks) -> dict[str, Any]:
    """Each field (R, C); vector is that of the last subblock, (row, column) in quarter pixels; tokens counts levels."""
    return {
        "segment": mbs.segment.tolist(),
        "reference": [[REFERENCES[value] for value in row] for row in mbs.reference],
        "y_mode": [[Y_MODES[value] for value in row] for row in mbs.y_mode],
        "uv_mode": [[Y_MODES[value] for value in row] for row in mbs.uv_mode],
        "vector": mbs.vectors[:, :, 15].tolist(),
        "skip": mbs.skip.tolist(),
        "tokens": np.count_nonzero(mbs.coefficients, axis=(2, 3)).tolist(),
    }
