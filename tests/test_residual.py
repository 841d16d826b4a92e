"""The residual coder: its trellis against trying everything, its transforms against plain ones."""

from __future__ import annotations

import itertools

import naive
import numba
import numpy as np
import pytest
from test_rate_distortion import block_rate

from codec import tables
from codec.encoding import forward_transform, residual
from codec.encoding.rate_distortion import position_token_rates
from codec.frame import B_PRED, DC_PRED, new_macroblocks, new_picture
from codec.predict_intra import predict_16x16, predict_chroma, set_intra_border
from codec.quantize import segment_quantizers
from codec.reconstruct import reconstruct_row

ZIGZAG = tables.ZIGZAG.tolist()


def _cheapest_by_trial(
    magnitudes: list[int],
    steps: list[int],
    block_type: int,
    context: int,
    weight: int,
    multiplier: int,
    probabilities: np.ndarray,
) -> int:
    """The least cost over all choices of nearest level, one less, and zero; zigzag order."""
    choices = []
    for magnitude, step in zip(magnitudes, steps, strict=True):
        nearest = (2 * magnitude + step) // (2 * step)
        choices.append(sorted({nearest, max(nearest - 1, 0), 0}))
    best = None
    for levels in itertools.product(*choices):
        error = sum(
            (level * step - magnitude) ** 2 - magnitude**2
            for level, step, magnitude in zip(levels, steps, magnitudes, strict=True)
        )
        rate = block_rate(list(levels), block_type, context, probabilities)
        cost = error * weight + rate * multiplier
        best = cost if best is None else min(best, cost)
    assert best is not None
    return best


@pytest.mark.parametrize("block_type", range(4))
@pytest.mark.parametrize("seed", range(8))
def test_trellis_finds_the_least_cost(block_type: int, seed: int) -> None:
    rng = np.random.default_rng(100 * block_type + seed)
    probabilities = tables.DEFAULT_COEFF_PROBS
    if seed % 2:
        probabilities = rng.integers(1, 256, (4, 8, 3, 11), dtype=np.uint8)
    first = 1 if block_type == 0 else 0
    steps = np.full(16, 20, np.int16)
    steps[0] = 14
    coefficients = np.zeros(16, np.int16)
    positions = range(first, 16) if seed == 7 else range(first, 9)
    for position in positions:
        large = seed != 7 or position % 3 == 0
        coefficients[ZIGZAG[position]] = rng.integers(-50, 51) if large else rng.integers(-9, 10)
    rates = position_token_rates(probabilities)[block_type]
    weight, multiplier = 4 << 12, int(7.168 * 14 * 14)
    for context in range(3):
        levels = np.zeros(16, np.int16)
        buffers = residual.new_buffers()
        end, cost = residual.optimize_block(
            coefficients, steps, rates, context, first, weight, multiplier, levels,
            buffers.origin, buffers.choice,
        )  # fmt: skip
        in_order = [int(levels[ZIGZAG[i]]) for i in range(first, 16)]
        magnitudes = [abs(int(coefficients[ZIGZAG[i]])) for i in range(first, 16)]
        in_steps = [int(steps[ZIGZAG[i]]) for i in range(first, 16)]
        assert cost == _cheapest_by_trial(
            magnitudes, in_steps, block_type, context, weight, multiplier, probabilities
        )
        rate = block_rate(in_order, block_type, context, probabilities)
        error = sum(
            (abs(level) * step - m) ** 2 - m * m
            for level, step, m in zip(in_order, in_steps, magnitudes, strict=True)
        )
        assert cost == error * weight + rate * multiplier
        last = max((i for i in range(first, 16) if levels[ZIGZAG[i]]), default=-1)
        assert end == last + 1
        assert np.all(levels.astype(int) * coefficients >= 0)


def test_no_rate_means_nearest_levels() -> None:
    rng = np.random.default_rng(5)
    coefficients = rng.integers(-2000, 2000, 16).astype(np.int16)
    steps = np.full(16, 9, np.int16)
    levels = np.zeros(16, np.int16)
    buffers = residual.new_buffers()
    residual.optimize_block(
        coefficients,
        steps,
        position_token_rates(tables.DEFAULT_COEFF_PROBS)[3],
        0,
        0,
        4 << 12,
        0,
        levels,
        buffers.origin,
        buffers.choice,
    )
    assert np.abs(levels.astype(int) * 9 - coefficients).max() <= 4


@pytest.mark.parametrize("extreme", [False, True])
def test_forward_transforms_are_libvpxs(extreme: bool) -> None:
    rng = np.random.default_rng(1)
    source = rng.choice((0, 255), (40, 40)) if extreme else rng.integers(0, 256, (40, 40))
    plane = 255 - source if extreme else rng.integers(0, 256, (40, 40))
    source, plane = source.astype(np.uint8), plane.astype(np.uint8)
    out = np.zeros((25, 16), np.int16)
    forward_transform.forward_dct_row(source, plane, 3, 5, out, 4)
    forward_transform.forward_dct_2x2(source, plane, 9, 7, out, 16)
    forward_transform.forward_dct_block(source, plane, 9, 20, out, 2)
    difference = source.astype(int) - plane
    places = [(4 + i, 3, 5 + 4 * i) for i in range(4)]
    places += [(16 + i, 9 + 4 * (i // 2), 7 + 4 * (i % 2)) for i in range(4)]
    for block, y, x in [*places, (2, 9, 20)]:
        expected = naive.forward_dct(difference[y : y + 4, x : x + 4].tolist())
        assert out[block].tolist() == expected
    forward_transform.forward_wht(out)
    assert out[24].tolist() == naive.forward_wht(out[:16, 0])


def _coder(q_index: int, skip_enabled: bool = True) -> residual.ResidualCoder:
    return residual.new_residual_coder(
        segment_quantizers(q_index, (0, 0, 0, 0, 0), None, False),
        tables.DEFAULT_COEFF_PROBS,
        np.array([256, 256], np.int32),
        np.full((1, 2), 256, np.int32),
        skip_enabled=skip_enabled,
    )


@pytest.mark.parametrize("seed", range(12))
def test_the_trellis_leaves_empty_what_is_below_the_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = tables.DEFAULT_COEFF_PROBS
    if seed % 3:
        probabilities = rng.integers(1, 256, (4, 8, 3, 11), dtype=np.uint8)
    factor = int(rng.integers(51, 1281))
    quantizers = segment_quantizers(int(rng.integers(0, 128)), (0, 0, 0, 0, 0), None, False)
    skip_rates, masking = np.array([256, 256], np.int32), np.full((1, 2), factor, np.int32)
    coder = residual.new_residual_coder(quantizers, probabilities, skip_rates, masking)
    multiplier = int(coder.multipliers[0, 0]) * factor >> 8
    mask = min(factor >> residual.MASK_SHIFT, residual.MASKS - 1)
    buffers = residual.new_buffers()
    for block_type, context in np.ndindex(4, 3):
        steps, rates = coder.steps[0, block_type], coder.token_rates[block_type]
        thresholds = coder.thresholds[0, mask, block_type]
        assert np.all(thresholds[3] == thresholds[:3].min(axis=0))
        first = 1 if block_type == 0 else 0
        for below in (1, 2, 5):
            bounds = np.minimum(thresholds[context] - 1, 4 * steps) // below
            coefficients = (bounds * rng.choice((-1, 1), 16)).astype(np.int16)
            end, cost = residual.optimize_block(
                coefficients, steps, rates, context, first, coder.weights[block_type], multiplier,
                np.zeros(16, np.int16), buffers.origin, buffers.choice,
            )  # fmt: skip
            assert end == 0
            assert cost == rates[first, context, tables.DCT_EOB] * multiplier


def _noise(seed: int, spread: int):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    picture = new_picture(1, 2)
    for plane in picture:
        plane[:] = rng.integers(128 - spread, 128 + spread + 1, plane.shape)
    return picture


@numba.njit
def _reconstruct_row(*arguments):  # type: ignore[no-untyped-def]
    reconstruct_row(*arguments)


@pytest.mark.parametrize("y_mode", [DC_PRED, B_PRED])
@pytest.mark.parametrize("q_index", [0, 40, 127])
def test_reconstruction_is_the_decoders(y_mode: int, q_index: int) -> None:
    source, picture, decoded = _noise(1, 90), new_picture(1, 2), new_picture(1, 2)
    for plane in (*picture, *decoded):
        plane[:] = 0
    set_intra_border(picture)
    set_intra_border(decoded)
    macroblocks = new_macroblocks(1, 2)
    macroblocks.y_mode[:] = y_mode
    macroblocks.sub_modes[:] = np.arange(16) % 10
    coder, contexts, buffers = _coder(q_index), residual.new_contexts(2), residual.new_buffers()
    for column in range(2):
        predict_chroma(picture, 0, column, DC_PRED)
        if y_mode != B_PRED:
            x = 32 + 16 * column
            predict_16x16(picture.y, 32, x, y_mode, picture.y, 32, x)
        residual.code_macroblock(coder, source, 0, column, macroblocks, contexts, picture, buffers)
    factors = segment_quantizers(q_index, (0, 0, 0, 0, 0), None, False)
    _reconstruct_row(
        macroblocks, macroblocks.coefficients[0], macroblocks.eobs[0], macroblocks.coded[0], factors,
        (decoded, decoded, decoded), 0, decoded, 0, np.zeros((25, 16), np.int16),
    )  # fmt: skip
    for ours, theirs in zip(picture, decoded, strict=True):
        np.testing.assert_array_equal(ours[32:-32, 32:-32], theirs[32:-32, 32:-32])
    error = source.y[32:48, 32:64].astype(int) - picture.y[32:48, 32:64]
    assert np.abs(error).max() <= (8 if q_index == 0 else 200)


def test_nothing_is_left_of_a_residue_that_does_not_pay() -> None:
    source, picture = _noise(2, 1), new_picture(1, 2)
    for plane in picture:
        plane[:] = 128
    macroblocks = new_macroblocks(1, 2)
    macroblocks.coefficients[:] = 7
    contexts = residual.new_contexts(2)
    contexts.above[:], contexts.left[:] = 1, 1
    residual.code_macroblock(
        _coder(100), source, 0, 0, macroblocks, contexts, picture, residual.new_buffers()
    )
    assert macroblocks.coded[0, 0] == 0
    assert macroblocks.skip[0, 0] == 1
    assert not macroblocks.coefficients[0, 0].any()
    assert not contexts.above[0].any()
    assert not contexts.left.any()


def test_without_skip_flags_every_macroblock_has_tokens() -> None:
    source, picture = _noise(2, 1), new_picture(1, 2)
    for plane in picture:
        plane[:] = 128
    macroblocks = new_macroblocks(1, 2)
    residual.code_macroblock(
        _coder(100, skip_enabled=False),
        source,
        0,
        0,
        macroblocks,
        residual.new_contexts(2),
        picture,
        residual.new_buffers(),
    )
    assert macroblocks.skip[0, 0] == 0
    assert macroblocks.coded[0, 0] == 0
