"""The encoder: its reconstruction is what decoders show, on any state; its frames are worth their bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from streams import decode_with_libvpx, encode_with_libvpx, moving_images

from codec import decode, parse
from codec.encoding.encoder import (
    REFRESH_ALL,
    Effort,
    Refresh,
    encode_given_state,
    encode_key_frame,
    replace_key_frame,
)
from codec.encoding.frame_coding import Encoded
from codec.encoding.quality import psnr
from codec.encoding.rebase import rebase
from codec.encoding.residual import HEAVIEST, Tuning
from codec.errors import UnsupportedFeature
from codec.frame import ALTREF_FRAME, B_PRED, GOLDEN_FRAME, SPLITMV, Image, picture_from_image
from codec.kernel_cache import INTERPRETED
from codec.state import DecoderState, FilterDeltas, References, Segmentation, distinct_pictures

SIZES = [(1, 1), (2, 3), (16, 16), (17, 15), (33, 50), (64, 48), (175, 143)]
SLOW = pytest.mark.skipif(INTERPRETED, reason="too slow without compiled kernels")


def _check(state: DecoderState | None, encoded: Encoded, image: Image) -> Image:
    """The frame decodes to the encoder's own state; gives what is shown."""
    after, shown = decode(state, encoded.data)
    assert after == encoded.state
    assert shown is not None
    assert (shown.width, shown.height) == (image.width, image.height)
    return shown


def _random_image(random: np.random.Generator, width: int, height: int) -> Image:
    half = ((height + 1) // 2, (width + 1) // 2)
    return Image(*(random.integers(0, 256, s, np.uint8) for s in ((height, width), half, half)))


def _random_state(random: np.random.Generator, width: int, height: int) -> DecoderState:
    """A state with three references, probabilities, segments and filter deltas of no sense."""
    key = encode_key_frame(_random_image(random, width, height), q_index=60).state
    pictures = [picture_from_image(_random_image(random, width, height)) for _ in range(3)]
    tables = key.probabilities
    coefficients = random.integers(1, 256, tables.coefficients.shape).astype(np.uint8)
    vectors = (random.integers(1, 128, tables.vectors.shape) * 2).astype(np.uint8)
    segments = random.integers(0, 4, key.segmentation.map.shape).astype(np.uint8)
    quarters = [random.integers(-9, 9, 4).astype(np.int8) for _ in range(4)]
    return replace(
        key,
        references=References(*pictures),
        probabilities=tables._replace(coefficients=coefficients, vectors=vectors),
        segmentation=Segmentation(True, False, quarters[0], quarters[1], segments),
        filter_deltas=FilterDeltas(True, quarters[2], quarters[3]),
    )


@SLOW
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_reconstruction_is_what_a_decoder_shows(width: int, height: int) -> None:
    images = moving_images(width, height, 4)
    encoded = encode_key_frame(images[0], q_index=20)
    _check(None, encoded, images[0])
    state = encoded.state
    for image, refresh in zip(
        images[1:], (Refresh(), Refresh(golden=True), REFRESH_ALL), strict=True
    ):
        encoded = encode_given_state(state, image, q_index=30, refresh=refresh)
        _check(state, encoded, image)
        state = encoded.state


@SLOW
@pytest.mark.parametrize("seed", range(6))
def test_any_state_will_do(seed: int) -> None:
    random = np.random.default_rng(seed)
    width, height = (int(size) for size in random.integers(1, 90, 2))
    state = _random_state(random, width, height)
    references = state.references
    assert references is not None
    for quantizer, image in ((4, references.altref), (127, references.golden)):
        shown = image.crop(width, height)
        encoded = encode_given_state(state, shown, q_index=quantizer)
        _check(state, encoded, shown)


def test_smallest_frames() -> None:
    images = moving_images(16, 16, 2)
    key = encode_key_frame(images[0], q_index=30)
    _check(None, key, images[0])
    _check(key.state, encode_given_state(key.state, images[1], q_index=30), images[1])


@SLOW
def test_libvpx_shows_the_same() -> None:
    images = moving_images(98, 66, 6)
    encoded = encode_key_frame(images[0], q_index=25)
    data, shown = [encoded.data], [_check(None, encoded, images[0])]
    for image in images[1:]:
        state = encoded.state
        encoded = encode_given_state(state, image, q_index=25)
        data.append(encoded.data)
        shown.append(_check(state, encoded, image))
    for ours, theirs in zip(shown, decode_with_libvpx(data), strict=True):
        assert ours.to_bytes() == theirs


@SLOW
def test_every_reference_is_used() -> None:
    """Of three pictures that show a scene each, the one that shows the frame's is found."""
    scenes = [moving_images(96, 96, 1, seed)[0] for seed in range(3)]
    state = encode_key_frame(scenes[0], q_index=10).state
    state = encode_given_state(
        state, scenes[1], q_index=10, refresh=Refresh(last=False, golden=True)
    ).state
    state = encode_given_state(
        state, scenes[2], q_index=10, refresh=Refresh(last=False, altref=True)
    ).state
    assert state.references is not None
    assert distinct_pictures(state.references)[1] == [0, 1, 2]
    for scene, reference in ((scenes[1], GOLDEN_FRAME), (scenes[2], ALTREF_FRAME)):
        encoded = encode_given_state(state, scene, q_index=30)
        used = parse(state, encoded.data).macroblocks.reference
        assert (used == reference).mean() > 0.8
        assert len(encoded.data) < 400


@SLOW
def test_motion_costs_little() -> None:
    """A pan with a patch that moves on its own takes far fewer bytes than a key frame, at the quality asked for."""
    images = moving_images(176, 144, 4)
    key = encode_key_frame(images[0], q_index=20)
    state = key.state
    modes = set()
    for image in images[1:]:
        encoded = encode_given_state(state, image, q_index=20)
        shown = _check(state, encoded, image)
        assert psnr(image, shown).y > 36
        assert len(encoded.data) < 0.75 * len(key.data)
        modes |= set(parse(state, encoded.data).macroblocks.y_mode.ravel().tolist())
        state = encoded.state
    assert SPLITMV in modes
    assert B_PRED in set(parse(None, key.data).macroblocks.y_mode.ravel().tolist())


@SLOW
def test_finer_quantizers_give_better_pictures() -> None:
    images = moving_images(80, 80, 2)
    state = encode_key_frame(images[0], q_index=20).state
    sizes, qualities = [], []
    for q_index in (0, 10, 40, 80, 127):
        encoded = encode_given_state(state, images[1], q_index=q_index)
        sizes.append(len(encoded.data))
        qualities.append(psnr(images[1], _check(state, encoded, images[1])).y)
    assert sizes == sorted(sizes, reverse=True)
    assert qualities == sorted(qualities, reverse=True)


@SLOW
def test_same_input_same_bytes() -> None:
    images = moving_images(80, 48, 2)
    state = encode_key_frame(images[0], q_index=20).state
    first, second = (encode_given_state(state, images[1], q_index=30) for _ in range(2))
    assert first.data == second.data
    assert first.state == second.state


@SLOW
def test_refresh_and_entropy_flags() -> None:
    images = moving_images(64, 64, 2)
    state = encode_key_frame(images[0], q_index=20).state
    kept = encode_given_state(
        state, images[1], q_index=30, refresh=Refresh(last=False, altref=True, entropy=False)
    )
    _check(state, kept, images[1])
    assert (
        kept.state.probabilities.coefficients.tobytes()
        == state.probabilities.coefficients.tobytes()
    )
    assert state.references is not None
    assert kept.state.references is not None
    assert kept.state.references.last is state.references.last
    assert kept.state.references.altref is not state.references.altref
    hidden = encode_given_state(state, images[1], q_index=30, show=False)
    assert decode(state, hidden.data)[1] is None


@SLOW
def test_replacing_a_key_frame() -> None:
    images = moving_images(96, 80, 4)
    before = encode_key_frame(images[0], q_index=30).state
    chunk = encode_with_libvpx(images[1:])
    quantizers = [parse(None, chunk[0]).header.quantizer.y_ac]
    quantizers.append(parse(decode(None, chunk[0])[0], chunk[1]).header.quantizer.y_ac)
    for weight, expected in ((1.0, quantizers[0]), (0.0, quantizers[1])):
        replaced = replace_key_frame(before, images[1], chunk[0], chunk[1], kf_q_weight=weight)
        _check(before, replaced, images[1])
        header = parse(before, replaced.data).header
        assert not header.key_frame
        assert header.quantizer.y_ac == expected
        references = replaced.state.references
        assert references is not None
        assert references.last is references.golden is references.altref


@SLOW
def test_efforts_differ_in_bytes_not_in_truth() -> None:
    images = moving_images(96, 64, 2)
    state = encode_key_frame(images[0], q_index=20).state
    least = Effort(limits=Effort().limits._replace(finalists=1, split_margin=0, subblock_margin=0))
    for effort in (least, Effort(masking=False), Effort(fits=0)):
        _check(state, encode_given_state(state, images[1], q_index=30, effort=effort), images[1])


def test_wrong_states_are_refused() -> None:
    images = moving_images(16, 16, 1)
    state = encode_key_frame(images[0], q_index=30).state
    with pytest.raises(UnsupportedFeature, match="16x16"):
        encode_given_state(state, moving_images(32, 16, 1)[0], q_index=30)
    with pytest.raises(ValueError, match="reference"):
        encode_given_state(state.without_references(), images[0], q_index=30)


# What no decoder can be told


def image_of(width: int, height: int) -> Image:
    half = ((height + 1) // 2, (width + 1) // 2)
    return Image(
        np.zeros((height, width), np.uint8), np.zeros(half, np.uint8), np.zeros(half, np.uint8)
    )


@pytest.mark.parametrize("q_index", [-1, 128, 200, 1.5, "7", None, float("nan")])
def test_an_index_that_no_header_holds_is_refused(q_index: Any) -> None:
    image = image_of(16, 16)
    with pytest.raises(ValueError, match="0 to 127"):
        encode_key_frame(image, q_index=q_index)
    state = encode_key_frame(image, q_index=np.int64(20)).state
    with pytest.raises(ValueError, match="0 to 127"):
        encode_given_state(state, image, q_index=q_index)


@pytest.mark.parametrize("flag", [2, -1, 0, 1, None, "no", 1.0, np.True_])
@pytest.mark.parametrize("name", ["show", "last", "golden", "altref", "entropy"])
def test_flags_are_bools(name: str, flag: Any) -> None:
    image = image_of(16, 16)
    first = encode_key_frame(image, q_index=20)
    if name == "show":
        choices: dict[str, Any] = {"show": flag}
        with pytest.raises(ValueError, match="True or False"):
            encode_key_frame(image, q_index=20, show=flag)
    else:
        choices = {"refresh": Refresh()._replace(**{name: flag})}
    with pytest.raises(ValueError, match="True or False"):
        encode_given_state(first.state, image, q_index=20, **choices)
    second = encode_given_state(first.state, image, q_index=20)
    field = name if name == "show" else f"refresh_{name}"
    for data in (first.data, second.data):
        frame = parse(first.state, data)
        wrong = frame._replace(header=frame.header._replace(**{field: flag}))
        with pytest.raises(ValueError, match="True or False"):
            rebase(first.state, image, wrong, first.state)


def wrong_efforts() -> dict[str, Effort]:
    usual = Effort()
    limits = {
        f"{name} {value}": usual._replace(limits=usual.limits._replace(**{name: value}))
        for name in usual.limits._fields
        for value in (-1, 1 << 40, 3.5, None)
    }
    weights = {
        f"{name} {value}": usual._replace(tuning=usual.tuning._replace(**{name: value}))
        for name in usual.tuning._fields
        for value in (-1.0, float("nan"), float("inf"), "1", None)
    }
    return {
        **limits,
        **weights,
        "all limits": usual._replace(limits=usual.limits._make([1 << 40] * 7)),
        "no finalist": usual._replace(limits=usual.limits._replace(finalists=0)),
        "fits": usual._replace(fits=-1),
        "many fits": usual._replace(fits=10**6),
        "masking": usual._replace(masking=2),
    }


@pytest.mark.parametrize("what", wrong_efforts())
def test_an_effort_out_of_range_is_refused(what: str) -> None:
    effort = wrong_efforts()[what]
    image = image_of(16, 16)
    with pytest.raises(ValueError, match=r"is a (whole )?number from|is True or False"):
        encode_key_frame(image, q_index=20, effort=effort)
    if effort.tuning != Effort().tuning:
        first = encode_key_frame(image, q_index=20)
        second = encode_given_state(first.state, image, q_index=20)
        with pytest.raises(ValueError, match="is a number from"):
            rebase(first.state, image, second.data, first.state, tuning=effort.tuning)


@SLOW
def test_the_ends_of_the_ranges_are_encoded() -> None:
    images = moving_images(64, 48, 2)
    state = encode_key_frame(images[0], q_index=20).state
    for limits in ((1, 0, 0, 0, 0, 0, 0), (256, *[16 * 256] * 4, 1 << 20, 1 << 20)):
        effort = Effort(limits=Effort().limits._make(limits), fits=16)
        _check(state, encode_given_state(state, images[1], q_index=9, effort=effort), images[1])


def test_the_highest_dead_zone_leaves_least() -> None:
    """At the coarsest steps too, where so many of them are more than any coefficient has."""
    images = moving_images(64, 48, 2)
    state = encode_key_frame(images[0], q_index=20).state
    made = encode_given_state(state, images[1], q_index=127)
    sizes = [
        len(rebase(state, images[1], made.data, state, tuning=Tuning(dead_zone=zone)).data)
        for zone in (0, 10, HEAVIEST)
    ]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[2]


@pytest.mark.parametrize(
    "change",
    [
        {"width": 32.0},
        {"height": "16"},
        {"width": None},
        {"width": 0},
        {"color_space": 0.0},
        {"horizontal_scale": 4},
    ],
)
def test_a_state_has_whole_numbers(change: dict[str, Any]) -> None:
    state = encode_key_frame(image_of(32, 16), q_index=20).state
    with pytest.raises(ValueError, match="is a whole number from"):
        replace(state, **change)


@pytest.mark.parametrize("flag", [7, None, 1, np.True_])
def test_a_state_has_flags(flag: Any) -> None:
    state = encode_key_frame(image_of(32, 16), q_index=20).state
    for part, name in (
        ("segmentation", "enabled"),
        ("segmentation", "absolute"),
        ("filter_deltas", "enabled"),
    ):
        wrong = getattr(state, part)._replace(**{name: flag})
        with pytest.raises(ValueError, match="is True or False"):
            replace(state, **{part: wrong})


def wrong_pictures() -> dict[str, Any]:
    good = image_of(33, 17)
    return {
        "a plain tuple": tuple(good),
        "two planes": good[:2],
        "no picture": None,
        "no plane": good._replace(u=None),
        "too wide": Image(*(np.zeros(size, np.uint8) for size in ((1, 16384), (1, 8192), (1, 8192)))),
        "too high": Image(*(np.zeros(size, np.uint8) for size in ((16384, 1), (8192, 1), (8192, 1)))),
        "nothing": image_of(0, 0),
        "no rows": image_of(16, 0),
        "chroma too small": good._replace(u=good.u[:-1]),
        "chroma too large": good._replace(v=np.zeros((17, 33), np.uint8)),
        "signed": good._replace(y=good.y.astype(np.int8)),
        "16 bits": good._replace(y=good.y.astype(np.uint16)),
        "chroma of floats": good._replace(u=good.u.astype(np.float64)),
        "three axes": good._replace(y=good.y[..., None]),
        "one axis": good._replace(v=good.v.ravel()),
    }  # fmt: skip


@pytest.mark.parametrize("what", wrong_pictures())
def test_what_is_no_picture_is_refused(what: str) -> None:
    image = wrong_pictures()[what]
    first = encode_key_frame(image_of(33, 17), q_index=20)
    second = encode_given_state(first.state, image_of(33, 17), q_index=20)
    for attempt in (
        lambda: encode_key_frame(image, q_index=20),
        lambda: encode_given_state(first.state, image, q_index=20),
        lambda: replace_key_frame(first.state, image, first.data),
        lambda: rebase(first.state, image, second.data, first.state),
        lambda: rebase(first.state, image, first.data, None),
        lambda: picture_from_image(image),
    ):
        with pytest.raises(ValueError, match=r"plane|luma"):
            attempt()
