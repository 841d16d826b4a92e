"""Rates against the plain walk over the RFC's trees, and against the size of what is really written."""

from __future__ import annotations

import math

import numpy as np
import pytest

from codec import tables
from codec.bool_coder import BoolWriter
from codec.encoding import rate_distortion as rd
from codec.encoding.masking import activity_masking
from codec.frame import Image, picture_from_image
from codec.motion import LARGEST_MAGNITUDE

CATEGORIES = (
    tables.DCT_CAT1_PROBS,
    tables.DCT_CAT2_PROBS,
    tables.DCT_CAT3_PROBS,
    tables.DCT_CAT4_PROBS,
    tables.DCT_CAT5_PROBS,
    tables.DCT_CAT6_PROBS,
)


def token_booleans(
    levels: list[int], block_type: int, context: int, probabilities: np.ndarray
) -> list[tuple[int, int]]:
    """The (probability, bit) pairs of a block, levels in zigzag order from its first position on (section 13)."""
    first = 1 if block_type == 0 else 0
    out: list[tuple[int, int]] = []
    end = max((i + 1 for i, level in enumerate(levels) if level), default=0)
    after_zero = False
    for position, level in enumerate(levels[:end], first):
        p = probabilities[block_type, tables.COEFF_BANDS[position], context]
        if not after_zero:
            out.append((int(p[0]), 1))
        size = abs(level)
        after_zero = size == 0
        context = min(size, 2)
        out.append((int(p[1]), int(size > 0)))
        if size == 0:
            continue
        out.append((int(p[2]), int(size > 1)))
        if size > 1:
            out.append((int(p[3]), int(size > 4)))
            if size <= 4:
                out.append((int(p[4]), int(size > 2)))
                if size > 2:
                    out.append((int(p[5]), size - 3))
            else:
                category = max(i for i, base in enumerate((5, 7, 11, 19, 35, 67)) if size >= base)
                out.append((int(p[6]), int(category > 1)))
                if category <= 1:
                    out.append((int(p[7]), category))
                else:
                    out.append((int(p[8]), int(category > 3)))
                    out.append((int(p[9 + int(category > 3)]), category & 1))
                extra = size - (5, 7, 11, 19, 35, 67)[category]
                bits = CATEGORIES[category]
                out += [(int(b), extra >> (len(bits) - 1 - i) & 1) for i, b in enumerate(bits)]
        out.append((128, int(level < 0)))
    if first + end < 16:
        p = probabilities[block_type, tables.COEFF_BANDS[first + end], context]
        out.append((int(p[0]), 0))
    return out


def boolean_rate(booleans: list[tuple[int, int]]) -> int:
    """Bits x 256."""
    return sum(int(rd.BOOLEAN_RATES[256 - p if bit else p]) for p, bit in booleans)


def block_rate(levels: list[int], block_type: int, context: int, probabilities: np.ndarray) -> int:
    """The same by the tables of the module."""
    first = 1 if block_type == 0 else 0
    rates = rd.position_token_rates(probabilities)[block_type]
    end = max((i + 1 for i, level in enumerate(levels) if level), default=0)
    total = 0
    for position, level in enumerate(levels[:end], first):
        total += int(rates[position, context, rd.LEVELS.token[abs(level)]])
        total += int(rd.LEVELS.rate[abs(level)])
        context = min(abs(level), 2)
    if first + end < 16:
        total += int(rates[first + end, context, tables.DCT_EOB])
    return total


def _probabilities(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (4, 8, 3, 11), dtype=np.uint8)


@pytest.mark.parametrize("seed", range(20))
def test_token_rates_are_those_of_the_tree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = _probabilities(seed) if seed else tables.DEFAULT_COEFF_PROBS
    for block_type in range(4):
        sizes = np.exp(rng.random(15 if block_type == 0 else 16) * 7.6) - 1
        levels = (sizes * rng.choice((-1, 0, 1), sizes.size)).astype(int).tolist()
        for context in range(3):
            booleans = token_booleans(levels, block_type, context, probabilities)
            assert block_rate(levels, block_type, context, probabilities) == boolean_rate(booleans)


def test_rates_are_the_bits_that_the_coder_writes() -> None:
    rng = np.random.default_rng(3)
    writer = BoolWriter(1 << 16)
    rate = 0
    for _ in range(300):
        levels = rng.choice((0, 0, 0, 0, 1, -1, 2, -3, 9, 40), 16).tolist()
        booleans = token_booleans(levels, 3, 0, tables.DEFAULT_COEFF_PROBS)
        rate += boolean_rate(booleans)
        for probability, bit in booleans:
            writer.write_bool(bit, probability)
    assert 8 * writer.size == pytest.approx(rate / 256, rel=0.025)


def test_boolean_rates_are_entropies() -> None:
    for probability in (1, 13, 128, 200, 255):
        assert rd.BOOLEAN_RATES[probability] == round(-256 * math.log2(probability / 256))
    assert rd.BOOLEAN_RATES[0] == rd.BOOLEAN_RATES[1]


@pytest.mark.parametrize(
    ("tree", "nodes", "leaves"),
    [
        (tables.COEFF_TREE, 11, 12),
        (tables.Y_MODE_TREE, 4, 5),
        (tables.KF_Y_MODE_TREE, 4, 5),
        (tables.UV_MODE_TREE, 3, 4),
        (tables.B_MODE_TREE, 9, 10),
        (tables.MBSPLIT_TREE, 3, 4),
        (tables.SUB_MV_REF_TREE, 3, 4),
        (tables.SMALL_MV_TREE, 7, 8),
        (tables.SEGMENT_TREE, 3, 4),
    ],
)
def test_leaves_of_a_tree_share_one(tree: tables.Tree, nodes: int, leaves: int) -> None:
    probabilities = np.random.default_rng(nodes).integers(20, 236, nodes, dtype=np.uint8)
    rates = rd.tree_rates(tree, probabilities)
    assert rates.shape == (leaves,)
    assert np.sum(2.0 ** (-rates / 256)) == pytest.approx(1, abs=0.01)


def test_vector_rates_share_one() -> None:
    rates = rd.vector_rates(tables.DEFAULT_MV_PROBS)
    assert rates.shape == (2, 2 * LARGEST_MAGNITUDE + 1)
    for component in rates:
        assert np.sum(2.0 ** (-component / 256)) == pytest.approx(1, abs=0.02)
    zero = LARGEST_MAGNITUDE
    assert rates[0, zero] < rates[0, zero + 5] < rates[0, zero + 500]


def test_mode_rates_follow_the_header() -> None:
    from codec.frame_header import DEFAULT_PROBABILITIES

    rates = rd.mode_rates(
        DEFAULT_PROBABILITIES, prob_skip_false=255, prob_intra=1, prob_last=128, prob_golden=64
    )
    assert rates.skip.tolist() == [1, 2048]
    assert rates.inter.tolist() == [2048, 1]
    assert rates.reference.tolist() == [0, 256, 256 + 512, 256 + 106]
    without = rd.mode_rates(
        DEFAULT_PROBABILITIES,
        prob_skip_false=0,
        prob_intra=1,
        prob_last=128,
        prob_golden=64,
        skip_enabled=False,
    )
    assert without.skip.tolist() == [0, 0]


def test_rate_multiplier_follows_the_quantizer() -> None:
    assert rd.rate_multiplier(40) == pytest.approx(16 * rd.rate_multiplier(10), rel=0.01)
    assert rd.rate_multiplier(2000) == rd.rate_multiplier(160)
    # libvpx: 0.028 q^2 squared errors a bit; a rate is in bits x 256
    cost = 256 * rd.rate_multiplier(100)
    assert cost / (1 << rd.DISTORTION_SHIFT) / 16 == pytest.approx(0.028 * 100**2, rel=0.001)


def test_masking_follows_the_root_of_the_variance() -> None:
    rng = np.random.default_rng(4)
    contrasts = np.array([[0, 2, 8], [20, 60, 120]])
    luma = 128 + contrasts.repeat(16, 0).repeat(16, 1) * (rng.random((32, 48)) - 0.5)
    luma = luma.astype(np.uint8)
    picture = picture_from_image(Image(luma, luma[::2, ::2], luma[::2, ::2]))
    quarters = luma.reshape(4, 8, 6, 8).swapaxes(1, 2).reshape(2, 2, 3, 2, 64).astype(float)
    activity = 64 * quarters.var(axis=-1).sum(axis=(1, 3))
    roots = np.sqrt(activity + 4096)
    expected = np.clip(roots / roots.mean(), 0.2, 5)
    assert activity_masking(picture) / 256 == pytest.approx(expected, abs=0.02)
