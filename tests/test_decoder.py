"""The decoder against libvpx: vectors, streams made here, and frames rewritten with other headers."""

from __future__ import annotations

import csv
import hashlib
import os
import random
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streams import (
    decode_with_libvpx,
    encode_with_libvpx,
    md5,
    moving_images,
    read_ivf,
    write_ivf,
)

import codec
from codec.bitstream import Frame
from codec.errors import CodecError, InvalidBitstream
from codec.frame_header import FilterDeltaUpdate, QuantizerIndices, SegmentationUpdate
from codec.state import DecoderState
from excamera_dask.formats.containers import read_packets

VECTORS = [f"{number:03}" for number in range(1, 18)]


def shown(packets: Iterable[bytes], state: DecoderState | None = None) -> list[bytes]:
    """I420 of each frame that we show."""
    pictures = []
    for data in packets:
        state, image = codec.decode(state, data)
        if image is not None:
            pictures.append(image.to_bytes())
    return pictures


def assert_same_frames(a: Frame, b: Frame) -> None:
    assert a.header == b.header
    for name, x, y in zip(a.macroblocks._fields, a.macroblocks, b.macroblocks, strict=True):
        assert np.array_equal(x, y), name
    for x, y in zip(a.probabilities, b.probabilities, strict=True):
        assert np.array_equal(x, y)


# Files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", VECTORS)
def test_vectors_decode_frame_by_frame(shared: Path, number: str) -> None:
    path = shared / "vp8" / "vectors" / f"vp80-00-comprehensive-{number}.ivf"
    expected = [line.split()[0] for line in Path(f"{path}.md5").read_text().splitlines()]
    assert [md5(picture) for picture in shown(read_ivf(path))] == expected


@pytest.mark.parametrize("number", VECTORS)
def test_vectors_survive_parsing_and_serializing(shared: Path, number: str) -> None:
    """libvpx's bytes come out again, whole, and so do frames, pictures and states."""
    path = shared / "vp8" / "vectors" / f"vp80-00-comprehensive-{number}.ivf"
    state = None
    for data in list(read_ivf(path))[:60]:
        frame = codec.parse(state, data)
        written = codec.serialize(state, frame)
        assert written == data
        assert_same_frames(codec.parse(state, written), frame)
        state, _ = codec.decode(state, data)


def _browser_files(shared: Path) -> list[dict[str, str]]:
    with (shared / "vp8" / "expected.csv").open() as file:
        return list(csv.DictReader(file))


def test_browser_and_webp_files_decode_as_by_vpxdec(shared: Path) -> None:
    """Every file that vpxdec decodes gives its MD5; of the others we say what is wrong."""
    for row in _browser_files(shared):
        digest, error = hashlib.md5(), None
        try:
            state = None
            for packet in read_packets(shared / "vp8" / row["file"]):
                state, image = codec.decode(state, packet.data)
                if image is not None:
                    digest.update(image.to_bytes())
        except Exception as caught:  # the container may be the broken part
            error = caught
        if row["vpxdec_rc"] == "0":
            assert error is None, row["file"]
            assert digest.hexdigest() == row["vpxdec_i420_md5"], row["file"]
        else:  # broken: what vpxdec shows of it before it stops, or nothing, or an error
            expected = (row["vpxdec_i420_md5"], hashlib.md5().hexdigest())
            assert str(error or "") or digest.hexdigest() in expected, row["file"]


# Streams made here -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", range(4))
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (15, 17), (16, 16), (33, 47), (175, 143)])
def test_sizes_and_profiles(size: tuple[int, int], profile: int) -> None:
    packets = encode_with_libvpx(moving_images(*size, count=6), profile=profile)
    assert shown(packets) == decode_with_libvpx(packets)


STREAMS: dict[str, dict[str, Any]] = {
    "four partitions": {"slices": 4},
    "eight partitions": {"slices": 8},
    "error resilience": {"error-resilient": "default"},
    "independent partitions": {"error-resilient": "partitions", "slices": 2},
    "static threshold": {"static-thresh": "1000", "deadline": "realtime", "cpu-used": "-6"},
    "sharpness": {"sharpness": "5"},
    "coarse": {"crf": "60"},
    "fine": {"crf": "4"},
    "denoised": {"noise-sensitivity": "2", "deadline": "realtime"},
    "three layers": {
        "ts-parameters": "ts_number_layers=3:ts_target_bitrate=100,200,400:ts_rate_decimator=4,2,1:"
        "ts_periodicity=4:ts_layer_id=0,2,1,2:ts_layering_mode=3"
    },
}


@pytest.mark.parametrize("name", STREAMS)
def test_encoder_settings(name: str) -> None:
    packets = encode_with_libvpx(moving_images(176, 144, 16), **STREAMS[name])
    assert shown(packets) == decode_with_libvpx(packets)


def test_hidden_altref_frames(tmp_path: Path, vpxenc: str) -> None:
    """Two passes with lookahead make altref frames: more packets than pictures."""
    images = moving_images(160, 128, 30)
    raw, out = tmp_path / "in.i420", tmp_path / "out.ivf"
    raw.write_bytes(b"".join(image.to_bytes() for image in images))
    flags = "--codec=vp8 --i420 --ivf --width=160 --height=128 --timebase=1/25 --good --cpu-used=2 --passes=2"
    more = "--auto-alt-ref=1 --lag-in-frames=12 --end-usage=q --cq-level=20 --target-bitrate=2000 --quiet"
    subprocess.run([vpxenc, *flags.split(), *more.split(), "-o", str(out), str(raw)], check=True)
    packets = list(read_ivf(out))
    headers, state = [], None
    for data in packets:
        headers.append(codec.parse(state, data).header)
        state, _ = codec.decode(state, data)
    assert not all(header.show for header in headers)
    assert shown(packets) == decode_with_libvpx(packets)


def test_size_changes_at_key_frames() -> None:
    packets = []
    for size in ((64, 48), (33, 90), (64, 48)):
        packets += encode_with_libvpx(moving_images(*size, count=3))
    pictures = shown(packets)
    assert [len(p) for p in pictures[::3]] == [
        64 * 48 * 3 // 2,
        33 * 90 + 2 * 17 * 45,
        64 * 48 * 3 // 2,
    ]
    assert pictures == decode_with_libvpx(packets)


def test_state_is_all_that_decoding_depends_on() -> None:
    """decode(A + B) is decode(B) after A's state, also when that went through bytes."""
    packets = encode_with_libvpx(moving_images(80, 64, 10), slices=2)
    state = None
    for data in packets[:5]:
        state, _ = codec.decode(state, data)
    assert state is not None
    copied = DecoderState.from_bytes(state.to_bytes())
    assert copied == state
    assert shown(packets[5:], copied) == shown(packets)[5:]


def test_decoding_changes_neither_state_nor_data() -> None:
    packets = encode_with_libvpx(moving_images(48, 32, 6))
    state, _ = codec.decode(None, packets[0])
    before = state.to_bytes()
    first = codec.decode(state, packets[1])
    assert state.to_bytes() == before
    again = codec.decode(state, packets[1])
    assert first[0] == again[0]


def test_parsing_needs_no_pictures() -> None:
    packets = encode_with_libvpx(moving_images(48, 32, 4))
    state, _ = codec.decode(None, packets[0])
    slim = state.without_references()
    assert_same_frames(codec.parse(slim, packets[1]), codec.parse(state, packets[1]))
    with pytest.raises(ValueError, match="parsing only"):
        codec.decode(slim, packets[1])


def test_an_empty_frame_repeats_the_last() -> None:
    packets = encode_with_libvpx(moving_images(48, 32, 2))
    state, image = codec.decode(None, packets[0])
    again, repeated = codec.decode(state, b"")
    assert again == state
    assert image is not None and repeated is not None
    assert repeated.to_bytes() == image.to_bytes()
    with pytest.raises(InvalidBitstream):
        codec.decode(None, b"")


# Rewritten headers: what libvpx's encoder never writes --------------------------------------------------------------


def _rewritten(state: DecoderState | None, frame: Frame, rnd: random.Random) -> Frame:
    """The frame with other flags, filters, quantizers, segments, references and probabilities."""
    header, macroblocks = frame.header, frame.macroblocks
    noise = np.random.default_rng(rnd.randrange(2**32))
    segmentation = _random_segmentation(rnd)
    if segmentation.update_map:
        macroblocks.segment[:] = noise.integers(0, 4, macroblocks.segment.shape)
    skip = rnd.random() < 0.7
    if not skip:
        macroblocks.skip[:] = 0
    header = header._replace(
        show=rnd.random() < 0.8,
        segmentation=segmentation,
        filter_deltas=_random_filter_deltas(rnd),
        simple_filter=rnd.random() < 0.5,
        filter_level=rnd.choice([0, rnd.randrange(64)]),
        sharpness=rnd.randrange(8),
        log2_partitions=rnd.randrange(4),
        quantizer=QuantizerIndices(rnd.randrange(128), *(rnd.randrange(-15, 16) for _ in range(5))),
        refresh_entropy=rnd.random() < 0.6,
        skip_enabled=skip,
        prob_skip_false=rnd.choice([0, 255, rnd.randrange(256)]) if skip else 0,
    )
    coefficients = frame.probabilities.coefficients.copy()
    changed = noise.random(coefficients.shape) < 0.02
    coefficients[changed] = noise.integers(0, 256, np.count_nonzero(changed))
    probabilities = frame.probabilities._replace(coefficients=coefficients)
    if header.key_frame or state is None:
        return Frame(header, probabilities, macroblocks)
    golden, altref = rnd.random() < 0.3, rnd.random() < 0.3
    header = header._replace(
        version=rnd.randrange(3),
        refresh_golden=golden,
        refresh_altref=altref,
        copy_to_golden=0 if golden else rnd.randrange(3),
        copy_to_altref=0 if altref else rnd.randrange(3),
        refresh_last=rnd.random() < 0.7,
        prob_intra=rnd.randrange(256),
        prob_last=rnd.randrange(256),
        prob_golden=rnd.randrange(256),
    )
    inter = macroblocks.reference > 0
    macroblocks.reference[inter] = noise.integers(1, 4, np.count_nonzero(inter))
    vectors = np.where(
        noise.random((2, 19)) < 0.2,
        np.maximum(2 * noise.integers(0, 128, (2, 19)), 1),
        state.probabilities.vectors,
    )
    y_mode = noise.integers(0, 256, 4).astype(np.uint8)
    probabilities = probabilities._replace(y_mode=y_mode, vectors=vectors.astype(np.uint8))
    return Frame(header, probabilities, macroblocks)


def _random_segmentation(rnd: random.Random) -> SegmentationUpdate:
    if rnd.random() < 0.4:
        return SegmentationUpdate()
    tree = None
    if rnd.random() < 0.5:
        tree = (rnd.randrange(256), rnd.choice([255, rnd.randrange(256)]), rnd.randrange(256))
    if rnd.random() < 0.4:
        return SegmentationUpdate(enabled=True, tree_probabilities=tree)
    quantizer = tuple(rnd.randrange(-127, 128) for _ in range(4))
    level = tuple(rnd.randrange(-63, 64) for _ in range(4))
    return SegmentationUpdate(True, rnd.random() < 0.5, quantizer, level, tree)


def _random_filter_deltas(rnd: random.Random) -> FilterDeltaUpdate:
    if rnd.random() < 0.3:
        return FilterDeltaUpdate()
    if rnd.random() < 0.3:
        return FilterDeltaUpdate(enabled=True)
    reference, mode = (
        tuple(rnd.choice([None, rnd.randrange(-63, 64)]) for _ in range(4)) for _ in range(2)
    )
    return FilterDeltaUpdate(True, True, reference, mode)


@pytest.mark.parametrize("seed", range(12))
def test_rewritten_headers_decode_as_by_libvpx(seed: int) -> None:
    """Copy flags, hidden frames, segments that persist, filter deltas, kept probabilities, all at random.

    Macroblocks are taken from one stream and mean something else after each rewritten frame.
    """
    rnd = random.Random(seed)
    source = encode_with_libvpx(moving_images(64, 80, 10, seed), profile=seed % 4)
    source_state = state = None
    packets = []
    for data in source:
        frame = codec.parse(source_state, data)
        source_state, _ = codec.decode(source_state, data)
        rewritten = _rewritten(state, frame, rnd)
        written = codec.serialize(state, rewritten)
        packets.append(written)
        state, _ = codec.decode(state, written)
    assert shown(packets) == decode_with_libvpx(packets)


def test_sign_biases_turn_near_vectors_around() -> None:
    """The same bits under other sign biases give other vectors, in libvpx as here."""
    packets = encode_with_libvpx(moving_images(96, 96, 8))
    rewritten, state = [], None
    for index, data in enumerate(packets):
        frame = codec.parse(state, data)
        if index:
            reference = frame.macroblocks.reference
            reference[reference > 0] = 1 + np.arange(np.count_nonzero(reference)) % 3
            bias = {"sign_bias_golden": bool(index & 1), "sign_bias_altref": bool(index & 2)}
            header = frame.header._replace(**bias, prob_last=128, prob_golden=128)
            frame = frame._replace(header=header)
        data = codec.serialize(state, frame)
        rewritten.append(data)
        state, _ = codec.decode(state, data)
    assert shown(rewritten) == decode_with_libvpx(rewritten)


# What is broken ----------------------------------------------------------------------------------------------------


def test_inter_frame_first() -> None:
    packets = encode_with_libvpx(moving_images(48, 32, 2))
    with pytest.raises(InvalidBitstream, match="must be a key frame"):
        codec.decode(None, packets[1])


def test_truncated_first_key_frame_is_refused_and_later_frames_are_filled_up() -> None:
    packets = encode_with_libvpx(moving_images(64, 64, 3))
    with pytest.raises(InvalidBitstream, match="first key frame ends within token partition 0"):
        codec.decode(None, packets[0][:-100])
    cut = [packets[0], packets[1][:-20], packets[2]]
    assert shown(cut) == decode_with_libvpx(cut)


def test_truncated_frames_survive_parsing_and_serializing_as_pictures() -> None:
    packets = encode_with_libvpx(moving_images(64, 64, 2), slices=2)
    state, _ = codec.decode(None, packets[0])
    cut = packets[1][:-30]
    written = codec.serialize(state, codec.parse(state, cut))
    assert codec.decode(state, written)[0] == codec.decode(state, cut)[0]


def test_partitions_that_do_not_fit() -> None:
    packets = encode_with_libvpx(moving_images(64, 64, 2), slices=4)
    first = int.from_bytes(packets[0][:3], "little") >> 5
    sizes = 10 + first
    broken = packets[0][:sizes] + b"\xff\xff\xff" + packets[0][sizes + 3 :]
    with pytest.raises(InvalidBitstream, match="token partition 0 of 16777215 bytes"):
        codec.decode(None, broken)
    with pytest.raises(InvalidBitstream, match="sizes of its 4 token partitions"):
        codec.decode(None, packets[0][: sizes + 5])
    with pytest.raises(InvalidBitstream, match="first partition of"):
        codec.decode(None, packets[0][: sizes - 1])


def test_large_pictures_need_data() -> None:
    tiny = bytes.fromhex("f001009d012aff3fff3f") + bytes(40)
    with pytest.raises(InvalidBitstream, match="16383x16383 pixels in 50 bytes"):
        codec.decode(None, tiny)


def test_errors_leave_the_state_usable() -> None:
    packets = encode_with_libvpx(moving_images(48, 32, 3))
    state, _ = codec.decode(None, packets[0])
    for broken in (b"\x01", packets[1][:3], b"\xff" * 50):
        with pytest.raises(CodecError):
            codec.decode(state, broken)
    assert shown(packets[1:], state) == shown(packets)[1:]


@pytest.mark.vpx
def test_vpxdec_reads_what_we_serialize(tmp_path: Path, vpxdec: str) -> None:
    packets = encode_with_libvpx(moving_images(80, 48, 6), slices=2)
    state, written = None, []
    for data in packets:
        written.append(codec.serialize(state, codec.parse(state, data)))
        state, _ = codec.decode(state, data)
    write_ivf(tmp_path / "a.ivf", written, 80, 48)
    command = [vpxdec, "--i420", "--md5", os.fspath(tmp_path / "a.ivf")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.split()[0] == md5(b"".join(shown(packets)))
