"""The decoder on mutated real streams: an answer or InvalidBitstream, in bounded time and memory, and nothing else."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzz_codec import mutated, streams
from streams import decode_with_libvpx, encode_with_libvpx, moving_images

import codec
from codec.errors import InvalidBitstream

SECONDS_A_STREAM = 2.0
MEGABYTES = 300


def survive(packets: list[bytes]) -> list[list[bytes]]:
    """What each frame shows, up to the first that is refused; parsing and decoding must agree on that."""
    state, pictures = None, []
    for data in packets:
        try:
            codec.parse(state, data)
            refused = False
        except InvalidBitstream as error:
            refused = True
            assert str(error)
        try:
            state, image = codec.decode(state, data)
            assert not refused or not data
        except InvalidBitstream:
            assert refused
            break
        pictures.append([] if image is None else [image.to_bytes()])
    return pictures


@pytest.mark.parametrize("seed", range(4))
def test_mutated_streams(seed: int) -> None:
    rnd = random.Random(seed)
    sources = streams()
    for _ in range(100):
        packets = mutated(rnd.choice(sources), rnd)
        begun = time.process_time()
        survive(packets)
        assert time.process_time() - begun < SECONDS_A_STREAM


@pytest.mark.parametrize("seed", [10**7, 2 * 10**7])
def test_mutated_frames_and_states_give_an_answer_or_a_typed_error(seed: int) -> None:
    """A short part of what `python tests/fuzz_codec.py` does for as long as one likes: decode, rebase, bytes of states."""
    script = str(Path(__file__).with_name("fuzz_codec.py"))  # by itself, for its memory is measured
    command = [sys.executable, script, "--frames", "600", "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert min(told["decoded"], told["rebased"], told["states"]) > 50


@pytest.mark.parametrize("seed", range(3))
def test_what_we_decode_of_mutated_streams_is_what_libvpx_decodes(seed: int) -> None:
    """Payload mutations only: corrupt tokens and modes are noise that both must read alike."""
    rnd = random.Random(seed)
    packets = encode_with_libvpx(moving_images(64, 48, 4, seed), profile=seed)
    for _ in range(40):
        frames = list(packets)
        victim = bytearray(frames[index := rnd.randrange(len(frames))])
        for _ in range(rnd.randrange(1, 6)):
            victim[rnd.randrange(len(victim) // 2, len(victim))] = rnd.randrange(255)
        frames[index] = bytes(victim)
        pictures = [picture for shown in survive(frames) for picture in shown]
        if len(pictures) == len(frames):
            assert pictures == decode_with_libvpx(frames)


CHILD = """
import random, resource, sys
sys.path.insert(0, {tests!r})
import test_fuzz_decoder as fuzz
rnd = random.Random({seed})
sources = fuzz.streams()
for source in sources:
    fuzz.survive(source[:{frames}])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range({count}):
    fuzz.survive(fuzz.mutated([*rnd.choice(sources)][:{frames}], rnd))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("variable", "count", "frames"), [("NUMBA_BOUNDSCHECK", 60, 4), ("NUMBA_DISABLE_JIT", 6, 2)]
)
def test_every_access_stays_inside_its_array(variable: str, count: int, frames: int) -> None:
    """Compiled with bounds checks, and interpreted, where numpy checks them (and overflow) itself.

    Memory is measured too: what mutated streams take beyond the intact ones.
    """
    tests = Path(__file__).parent
    script = CHILD.format(tests=str(tests), seed=9, count=count, frames=frames)
    environment = {**os.environ, variable: "1", "PYTHONPATH": str(tests.parent)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < MEGABYTES * 1024 * (1024 if sys.platform == "darwin" else 1)
