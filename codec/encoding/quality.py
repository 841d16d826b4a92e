"""How near a picture is to its original: PSNR and SSIM as ffmpeg's psnr and ssim filters compute them.

SSIM is the variant of x264 and ffmpeg: 8 x 8 windows that overlap by half, without Gaussian weights, over the
stable form of Wang et al. (2004). Sizes weigh the planes of an overall value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from codec import simd
from codec.frame import Image, Plane
from codec.kernel import allocating_kernel, kernel

PEAK = 255
_C1 = int(0.01 * 0.01 * PEAK * PEAK * 64 + 0.5)
_C2 = int(0.03 * 0.03 * PEAK * PEAK * 64 * 63 + 0.5)


class PlaneValues(NamedTuple):
    """One figure for each plane, and one for all of them weighted by their sizes."""

    y: float
    u: float
    v: float
    all: float


def mean_squared_error(reference: Image, image: Image) -> PlaneValues:
    """Mean squared error of each plane; raises ValueError where the sizes differ."""
    return _weighted(
        reference,
        [
            int(_squared_error(*_contiguous(a, b))) / a.size
            for a, b in zip(reference, _of_size(reference, image), strict=True)
        ],
    )


def psnr_from_error(error: float) -> float:
    """PSNR in dB of a mean squared error; infinite for 0."""
    return math.inf if error == 0 else 10 * math.log10(PEAK * PEAK / error)


def psnr(reference: Image, image: Image) -> PlaneValues:
    """PSNR of one picture in dB. Over several pictures ffmpeg's is that of the mean error: see `overall_psnr`."""
    return PlaneValues(*(psnr_from_error(e) for e in mean_squared_error(reference, image)))


def ssim(reference: Image, image: Image) -> PlaneValues:
    """SSIM, at most 1; planes under 8 pixels in either direction are widened by replicating their edges."""
    return _weighted(
        reference,
        [
            float(_plane_similarity(*_contiguous(_at_least_8x8(a), _at_least_8x8(b))))
            for a, b in zip(reference, _of_size(reference, image), strict=True)
        ],
    )


def ssim_db(similarity: float) -> float:
    """SSIM in dB, ``-10 log10(1 - SSIM)``; infinite within 1e-9 of 1, as ffmpeg prints it."""
    return math.inf if abs(1 - similarity) <= 1e-9 else -10 * math.log10(1 - similarity)


def mean(values: Sequence[PlaneValues]) -> PlaneValues:
    """Mean over pictures, as in the ssim filter's summary; raises ValueError when there are none."""
    if not values:
        raise ValueError("there are no pictures to average over")
    return PlaneValues(*(math.fsum(column) / len(values) for column in zip(*values, strict=True)))


def overall_psnr(errors: Sequence[PlaneValues]) -> PlaneValues:
    """PSNR in dB over pictures of these mean squared errors, as in the psnr filter's summary."""
    return PlaneValues(*(psnr_from_error(error) for error in mean(errors)))


def _of_size(reference: Image, image: Image) -> Image:
    for a, b in zip(reference, image, strict=True):
        if a.shape != b.shape:
            raise ValueError(
                f"pictures of different sizes: {reference.width}x{reference.height} "
                f"and {image.width}x{image.height}"
            )
    return image


def _weighted(reference: Image, values: Sequence[float]) -> PlaneValues:
    sizes = [plane.size for plane in reference]
    total = sum(size * value for size, value in zip(sizes, values, strict=True))
    y, u, v = values
    return PlaneValues(y, u, v, total / sum(sizes))


def _contiguous(a: Plane, b: Plane) -> tuple[Plane, Plane]:
    return np.ascontiguousarray(a), np.ascontiguousarray(b)


def _at_least_8x8(plane: Plane) -> Plane:
    missing = [(0, max(0, 8 - length)) for length in plane.shape]
    return np.pad(plane, missing, mode="edge") if any(m for _, m in missing) else plane


@kernel
def _squared_error(a, b):
    """Sum of squared differences of two (H, W) uint8 planes."""
    height, width = a.shape
    total = 0
    for y in range(height):
        row = simd.i32x8(0)
        for x in range(0, width - 15, 16):
            difference = simd.load16(a, y, x) - simd.load16(b, y, x)
            row = row + simd.dot_pairs(difference, difference)
        total += simd.lane_sum(row)
        for x in range(width - width % 16, width):
            total += int(np.int64(a[y, x]) - np.int64(b[y, x])) ** 2
    return total


@allocating_kernel
def _block_sums(a, b, y, sums):
    """Fill sums (4, W // 4) int32 for the 4x4 blocks from row y: of a, of b, of both squared, of a times b."""
    ones = simd.i16x16(1)
    blocks = sums.shape[1]
    pairs = np.empty((4, 8), np.int32)
    done = blocks - blocks % 4
    for block in range(0, done, 4):
        x = 4 * block
        sum_a = simd.i16x16(0)
        sum_b = simd.i16x16(0)
        squares = simd.i32x8(0)
        products = simd.i32x8(0)
        for row in range(4):
            p = simd.load16(a, y + row, x)
            q = simd.load16(b, y + row, x)
            sum_a = sum_a + p
            sum_b = sum_b + q
            squares = squares + simd.dot_pairs(p, p) + simd.dot_pairs(q, q)
            products = products + simd.dot_pairs(p, q)
        simd.store(simd.dot_pairs(sum_a, ones), pairs, 0, 0)
        simd.store(simd.dot_pairs(sum_b, ones), pairs, 1, 0)
        simd.store(squares, pairs, 2, 0)
        simd.store(products, pairs, 3, 0)
        for kind in range(4):
            for i in range(4):
                sums[kind, block + i] = pairs[kind, 2 * i] + pairs[kind, 2 * i + 1]
    for block in range(done, blocks):
        sums[:, block] = 0
        for row in range(y, y + 4):
            for column in range(4 * block, 4 * block + 4):
                of_a = np.int32(a[row, column])
                of_b = np.int32(b[row, column])
                sums[0, block] += of_a
                sums[1, block] += of_b
                sums[2, block] += of_a * of_a + of_b * of_b
                sums[3, block] += of_a * of_b


@kernel
def _row_similarity(above, below):
    """Sum of the similarities of the 8x8 windows that two neighbouring rows of blocks make."""
    total = 0.0
    for x in range(above.shape[1] - 1):
        s_a = np.int64(above[0, x] + above[0, x + 1] + below[0, x] + below[0, x + 1])
        s_b = np.int64(above[1, x] + above[1, x + 1] + below[1, x] + below[1, x + 1])
        squares = np.int64(above[2, x] + above[2, x + 1] + below[2, x] + below[2, x + 1])
        products = np.int64(above[3, x] + above[3, x + 1] + below[3, x] + below[3, x + 1])
        variances = squares * 64 - s_a * s_a - s_b * s_b
        covariance = products * 64 - s_a * s_b
        means = np.float64(2 * s_a * s_b + _C1) / np.float64(s_a * s_a + s_b * s_b + _C1)
        total += means * np.float64(2 * covariance + _C2) / np.float64(variances + _C2)
    return total


@allocating_kernel
def _plane_similarity(a, b):
    """Mean SSIM of two (H, W) uint8 planes of at least 8 x 8; up to 3 rows and columns at the end do not count."""
    rows = a.shape[0] // 4
    columns = a.shape[1] // 4
    above = np.empty((4, columns), np.int32)
    below = np.empty((4, columns), np.int32)
    _block_sums(a, b, 0, above)
    total = 0.0
    for row in range(1, rows):
        _block_sums(a, b, 4 * row, below)
        total += _row_similarity(above, below)
        above, below = below, above
    return total / ((rows - 1) * (columns - 1))
