"""Time of each pixel kernel for one frame of 1280x720: `python benchmarks/kernels.py`, milliseconds as JSON.

Each figure is for a whole frame of one kind: every macroblock predicted so, every block with coefficients, every edge
filtered. Processor time of one thread, the least of several runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np

from codec.borders import extend_borders
from codec.frame import BORDER, SPLIT_4X4, SPLIT_QUARTERS, TM_PRED, Picture, new_picture
from codec.kernel import kernel
from codec.loop_filter import loop_filter_picture
from codec.predict_inter import predict_inter_macroblock
from codec.predict_intra import predict_16x16, predict_chroma, predict_subblock, set_intra_border
from codec.quantize import dequantize
from codec.transform import add_residue, inverse_wht

ROWS, COLUMNS, RUNS = 45, 80, 20


@kernel
def _inter(reference, vectors, split, partitioning, version, picture):  # type: ignore[no-untyped-def]
    for row in range(ROWS):
        for column in range(COLUMNS):
            predict_inter_macroblock(
                reference, vectors, split, partitioning, version, picture, row, column
            )


@kernel
def _residue(levels, eobs, factors, coefficients, picture):  # type: ignore[no-untyped-def]
    for row in range(ROWS):
        for column in range(COLUMNS):
            dequantize(levels, factors, True, coefficients)
            inverse_wht(coefficients)
            add_residue(coefficients, eobs, picture, row, column)


@kernel
def _intra(picture, mode):  # type: ignore[no-untyped-def]
    for row in range(ROWS):
        for column in range(COLUMNS):
            y, x = BORDER + 16 * row, BORDER + 16 * column
            predict_16x16(picture.y, y, x, mode, picture.y, y, x)
            predict_chroma(picture, row, column, mode)


@kernel
def _subblocks(picture, modes):  # type: ignore[no-untyped-def]
    for y in range(BORDER, BORDER + 16 * ROWS, 4):
        for x in range(BORDER, BORDER + 16 * COLUMNS, 4):
            mode = modes[y >> 2, x >> 2]
            predict_subblock(picture.y, y, x, mode, y - 1, picture.y, y, x)


def _milliseconds(work: Callable[[], object]) -> float:
    work()
    least = float("inf")
    for _ in range(RUNS):
        start = time.thread_time()
        work()
        least = min(least, time.thread_time() - start)
    return round(1000 * least, 3)


def _picture(seed: int) -> Picture:
    picture = new_picture(ROWS, COLUMNS)
    for plane in picture:
        plane[:] = np.random.default_rng(seed).integers(100, 108, plane.shape)
    return picture


def measure() -> dict[str, float]:
    """Milliseconds of each kernel for one frame."""
    reference, picture = _picture(1), _picture(2)
    results = {}

    def inter(name: str, vector: tuple[int, int], partitioning: int | None, version: int) -> None:
        vectors = np.array([vector] * 16, np.int16)
        split = partitioning is not None
        results[f"inter, {name}"] = _milliseconds(
            lambda: _inter(reference, vectors, split, partitioning or 0, version, picture)
        )

    inter("whole pixels", (8, -8), None, 0)
    inter("six taps across", (8, 2), None, 0)
    inter("six taps down", (2, 8), None, 0)
    inter("six taps both ways", (2, 6), None, 0)
    inter("six taps both ways, quarters", (2, 6), SPLIT_QUARTERS, 0)
    inter("six taps both ways, 4x4", (2, 6), SPLIT_4X4, 0)
    inter("bilinear", (2, 6), None, 1)

    levels = np.random.default_rng(3).integers(-2, 3, (25, 16)).astype(np.int16)
    factors, coefficients = np.full(6, 5, np.int16), np.zeros((25, 16), np.int16)
    for name, eob in (("all coefficients", 16), ("first coefficients only", 1)):
        eobs = np.full(25, eob, np.uint8)
        results[f"residue, {name}"] = _milliseconds(
            lambda eobs=eobs: _residue(levels, eobs, factors, coefficients, picture)  # type: ignore[misc]
        )

    set_intra_border(picture)
    results["intra, TM_PRED"] = _milliseconds(lambda: _intra(picture, TM_PRED))
    modes = np.random.default_rng(5).integers(0, 10, (4 * ROWS + 8, 4 * COLUMNS + 8), np.uint8)
    results["intra, subblocks"] = _milliseconds(lambda: _subblocks(picture, modes))

    levels_of, inner = np.full((ROWS, COLUMNS), 20, np.uint8), np.ones((ROWS, COLUMNS), np.uint8)
    for name, simple in (("normal", False), ("simple", True)):
        filtered = _picture(4)
        results[f"loop filter, {name}"] = _milliseconds(
            lambda filtered=filtered, simple=simple: loop_filter_picture(  # type: ignore[misc]
                filtered, levels_of, inner, 0, simple, False
            )
        )
    results["borders"] = _milliseconds(lambda: extend_borders(picture))
    return results


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
