"""Rebasing: the state that it promises is the one that decoders reach, and the pictures stay what they were."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from codec import decode, parse, serialize
from codec.encoding import quality
from codec.encoding.frame_coding import Encoded
from codec.encoding.rebase import rebase
from codec.errors import UnsupportedFeature
from codec.frame import Image, Picture
from codec.state import DecoderState, FilterDeltas, References, Segmentation

COMPREHENSIVE = [f"vp80-00-comprehensive-{number:03d}.ivf" for number in range(1, 18)]


def _film(width: int, height: int, count: int) -> list[Image]:
    """A moving texture with an object that crosses it, and a little noise."""
    rng = np.random.default_rng(width * height)
    world = rng.integers(0, 256, (height // 4 + 40, width // 4 + 40)).repeat(4, 0).repeat(4, 1)
    world = (world + np.roll(world, 1, 0) + np.roll(world, 1, 1) + np.roll(world, 2, 1)) // 4
    images = []
    for n in range(count):
        y = world[n : n + height, 2 * n : 2 * n + width] // 2 + 40
        y[height // 4 : height // 2, (5 * n) % width : (5 * n) % width + 12] = 220
        y = np.clip(y + rng.integers(-3, 4, y.shape), 0, 255).astype(np.uint8)
        half = y[::2, ::2]
        images.append(Image(y, 255 - half, half // 2 + 60))
    return images


def _encode(images: Sequence[Image], **options: object) -> list[bytes]:
    """All frames that libvpx makes, hidden ones included."""
    context = av.CodecContext.create("libvpx", "w")
    context.width, context.height = images[0].width, images[0].height
    context.pix_fmt = "yuv420p"
    context.framerate, context.time_base = Fraction(25), Fraction(1, 25)
    context.thread_count = 1
    context.options = {"deadline": "good", "cpu-used": "4", "qmin": "4", "qmax": "40"} | {
        key.replace("_", "-"): str(value) for key, value in options.items()
    }
    packets: list[bytes] = []
    for n, image in enumerate(images):
        frame = av.VideoFrame(image.width, image.height, "yuv420p")
        for plane, pixels in zip(frame.planes, image, strict=True):
            room = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            room[: pixels.shape[0], : pixels.shape[1]] = pixels
        frame.pts = n
        packets += [bytes(packet) for packet in context.encode(frame)]
    return packets + [bytes(packet) for packet in context.encode(None)]


def _libvpx(frames: Sequence[bytes]) -> list[Image]:
    """What libavcodec's VP8 decoder shows."""
    context = av.CodecContext.create("vp8", "r")
    shown = []
    for data in frames:
        for frame in context.decode(av.Packet(data)):
            planes = []
            for index, plane in enumerate(frame.planes):
                rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
                shift = 1 if index else 0
                height, width = (frame.height + shift) >> shift, (frame.width + shift) >> shift
                planes.append(rows[:height, :width].copy())
            shown.append(Image(*planes))
    return shown


def _split_ivf(data: bytes) -> list[bytes]:
    frames, at = [], 32
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        frames.append(data[at + 12 : at + 12 + size])
        at += 12 + size
    return frames


def _same(a: Image, b: Image) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


def _rebase_all(
    frames: Sequence[bytes], images: Sequence[Image], first: bytes
) -> tuple[list[bytes], list[Image], list[Image]]:
    """Rebase a stream onto another first key frame: its frames, its pictures, and those of the stream itself."""
    source, own = decode(None, frames[0])
    state, ours = decode(None, first)
    assert own is not None and ours is not None
    data, pictures, originals = [first], [ours], [own]
    for frame in frames[1:]:
        after, shown = decode(source, frame)
        image = images[len(originals)] if shown is not None else _newest(source, after)
        encoded = rebase(state, image, frame, source)
        reached, picture = decode(state, encoded.data)
        assert reached == encoded.state
        assert (picture is None) == (shown is None)
        if picture is not None and shown is not None:
            pictures.append(picture)
            originals.append(shown)
        data.append(encoded.data)
        source, state = after, encoded.state
    return data, pictures, originals


def _newest(before: DecoderState, after: DecoderState) -> Image:
    """The picture that a hidden frame put into a reference."""
    assert before.references is not None and after.references is not None
    old = {id(picture) for picture in before.references}
    new = [picture for picture in after.references if id(picture) not in old]
    return (new or [after.references.last])[0].crop(after.width, after.height)


ENCODES: dict[str, tuple[tuple[int, int], dict[str, object]]] = {
    "plain": ((96, 64), {}),
    "odd": ((77, 45), {}),
    "tiny": ((5, 3), {}),
    "resilient": ((96, 64), {"error_resilient": "default", "token_parts": 2}),
    "segments": (
        (96, 80),
        {"error_resilient": 1, "deadline": "realtime", "cpu_used": -4, "b": 90000},
    ),
    "profile1": ((64, 48), {"profile": 1}),
    "profile2": ((64, 48), {"profile": 2}),
    "profile3": ((64, 48), {"profile": 3}),
    "best": ((96, 64), {"deadline": "best", "cpu_used": 0}),
}


@pytest.mark.parametrize("name", ENCODES)
def test_chain_onto_another_key_frame(name: str) -> None:
    (width, height), options = ENCODES[name]
    images = _film(width, height, 16)
    frames = _encode(images, **options)
    first = _encode(images[:1], crf=12, profile=options.get("profile", 0))[0]
    data, pictures, originals = _rebase_all(frames, images, first)
    theirs = _libvpx(data)
    assert len(theirs) == len(pictures) == len(images)
    assert all(_same(a, b) for a, b in zip(pictures, theirs, strict=True))
    if width > 16:
        ours = _quality(images, pictures)
        assert ours > _quality(images, originals) - 1.5


@pytest.mark.vpx
def test_hidden_frames_are_carried_through(vpxenc: str, tmp_path: Path) -> None:
    images = _film(96, 64, 40)
    with (tmp_path / "film.y4m").open("wb") as file:
        file.write(b"YUV4MPEG2 W96 H64 F25:1 Ip A1:1 C420\n")
        for image in images:
            file.write(b"FRAME\n" + image.to_bytes())
    options = ["--codec=vp8", "--ivf", "--passes=2", "--auto-alt-ref=1", "--lag-in-frames=16",
               "--arnr-maxframes=5", "--target-bitrate=60", "--good", "--cpu-used=2"]  # fmt: skip
    command = [vpxenc, *options, "-o", str(tmp_path / "film.ivf"), str(tmp_path / "film.y4m")]
    subprocess.run(command, check=True, capture_output=True)
    frames = _split_ivf((tmp_path / "film.ivf").read_bytes())
    assert len(frames) > len(images)
    first = _encode(images[:1], crf=12)[0]
    data, pictures, _ = _rebase_all(frames, images, first)
    theirs = _libvpx(data)
    assert len(theirs) == len(images)
    assert all(_same(a, b) for a, b in zip(pictures, theirs, strict=True))


def _quality(images: Sequence[Image], pictures: Sequence[Image]) -> float:
    pairs = zip(images[1:], pictures[1:], strict=True)
    return quality.overall_psnr([quality.mean_squared_error(a, b) for a, b in pairs]).y


def test_onto_its_own_state_little_changes() -> None:
    images = _film(96, 64, 12)
    frames = _encode(images)
    data, pictures, originals = _rebase_all(frames, images, frames[0])
    assert _quality(images, pictures) > _quality(images, originals) - 0.7
    assert sum(map(len, data)) < 1.1 * sum(map(len, frames))


def test_same_arguments_same_bytes() -> None:
    images = _film(96, 64, 3)
    frames = _encode(images)
    state, _ = decode(None, frames[0])
    first = rebase(state, images[1], frames[1], state)
    assert rebase(state, images[1], parse(state, frames[1]), state) == first


# States that differ in everything ----------------------------------------------------------------------------------


def _disturbed(state: DecoderState, seed: int) -> DecoderState:
    """The state with other pictures, probabilities, segments and loop-filter deltas."""
    assert state.references is not None
    rng = np.random.default_rng(seed)

    def noisy(picture: Picture) -> Picture:
        planes = []
        for plane in picture:
            inside = plane[32:-32, 32:-32].astype(np.int16)
            inside = np.clip(inside + rng.integers(-6, 7, inside.shape), 0, 255)
            planes.append(np.pad(inside.astype(np.uint8), 32, mode="edge"))
        return Picture(*planes)

    def shaken(probabilities: np.ndarray) -> np.ndarray:
        shift = rng.integers(-9, 10, probabilities.shape)
        return np.clip(probabilities + shift, 1, 255).astype(np.uint8)

    changed = type(state.probabilities)(*(shaken(p) for p in state.probabilities))
    old = state.segmentation
    segments = rng.integers(0, 4, old.map.shape, dtype=np.uint8)
    values = rng.integers(-20, 20, (2, 4)).astype(np.int8)
    deltas = rng.integers(-10, 10, (2, 4)).astype(np.int8)
    return replace(
        state,
        probabilities=changed,
        segmentation=Segmentation(old.enabled, not old.absolute, *values, segments),
        filter_deltas=FilterDeltas(state.filter_deltas.enabled, *deltas),
        references=References(*(noisy(picture) for picture in state.references)),
    )


@pytest.mark.shared
@pytest.mark.parametrize("name", COMPREHENSIVE)
def test_vectors_onto_disturbed_states(shared: Path, name: str) -> None:
    frames = _split_ivf((shared / "vp8" / "vectors" / name).read_bytes())[:12]
    source: DecoderState | None = None
    state: DecoderState | None = None
    worst = 99.0
    for number, frame in enumerate(frames):
        after, image = decode(source, frame)
        if image is None:
            assert source is not None
            image = _newest(source, after)
        if source is None or parse(source, frame).header.key_frame:
            state = _disturbed(after, number)
        else:
            assert state is not None
            encoded = rebase(state, image, frame, source)
            reached, picture = decode(state, encoded.data)
            assert reached == encoded.state
            _same_meaning(frame, source, encoded, state)
            if picture is not None:
                worst = min(worst, quality.psnr(image, picture).y)
            state = encoded.state
        source = after
    assert worst > 24


def _same_meaning(
    frame: bytes, source: DecoderState, encoded: Encoded, state: DecoderState
) -> None:
    """Modes, vectors, references, segments, quantizers and filter are those of the frame it was made from."""
    old, new = parse(source, frame), parse(state, encoded.data)
    for field in ("y_mode", "uv_mode", "reference", "partitioning", "vectors"):
        np.testing.assert_array_equal(
            getattr(old.macroblocks, field), getattr(new.macroblocks, field)
        )
    kept = ("version", "show", "quantizer", "filter_level", "sharpness", "simple_filter",
            "refresh_last", "refresh_golden", "refresh_altref", "copy_to_golden", "copy_to_altref",
            "sign_bias_golden", "sign_bias_altref", "refresh_entropy", "log2_partitions")  # fmt: skip
    for field in kept:
        assert getattr(old.header, field) == getattr(new.header, field), field
    after, _ = decode(source, frame)
    if after.segmentation.enabled:
        np.testing.assert_array_equal(after.segmentation.map, encoded.state.segmentation.map)
        assert after.segmentation.absolute == encoded.state.segmentation.absolute
        for a, b in zip(after.segmentation[2:4], encoded.state.segmentation[2:4], strict=True):
            np.testing.assert_array_equal(a, b)
    if after.filter_deltas.enabled:
        np.testing.assert_array_equal(
            after.filter_deltas.reference, encoded.state.filter_deltas.reference
        )
        np.testing.assert_array_equal(after.filter_deltas.mode, encoded.state.filter_deltas.mode)


# What is passed through, what is refused ---------------------------------------------------------------------------


def test_key_and_empty_frames_pass_through() -> None:
    images = _film(64, 48, 2)
    frames = _encode(images)
    state, _ = decode(None, frames[0])
    other, _ = decode(state, frames[1])
    encoded = rebase(other, images[0], frames[0], None)
    assert encoded.data == serialize(None, parse(None, frames[0]))
    assert encoded.state == state
    assert rebase(other, images[0], b"", state) == Encoded(b"", other)


def test_sizes_must_agree() -> None:
    frames, others = _encode(_film(64, 48, 2)), _encode(_film(48, 64, 2))
    state, _ = decode(None, frames[0])
    other, _ = decode(None, others[0])
    with pytest.raises(UnsupportedFeature, match="64x48"):
        rebase(other, _film(64, 48, 1)[0], frames[1], state)
    with pytest.raises(UnsupportedFeature, match="32x32"):
        rebase(state, _film(32, 32, 1)[0], frames[1], state)


def test_a_state_without_pictures_is_refused() -> None:
    images = _film(64, 48, 2)
    frames = _encode(images)
    state, _ = decode(None, frames[0])
    with pytest.raises(ValueError, match="pictures"):
        rebase(state.without_references(), images[1], frames[1], state)


def test_the_source_state_needs_no_pictures() -> None:
    images = _film(64, 48, 2)
    frames = _encode(images)
    state, _ = decode(None, frames[0])
    encoded = rebase(state, images[1], frames[1], state.without_references())
    assert encoded == rebase(state, images[1], frames[1], state)
