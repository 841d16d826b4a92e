"""Mutated frames and states through the codec: an answer or one of its own errors, in bounded memory, and nothing else.

    python tests/fuzz_codec.py --frames 1000000 [--seed 0]      NUMBA_BOUNDSCHECK=1 looks at every index

Each round mutates a short stream of libvpx's, decodes it as far as it goes, rebases its frames onto the states of another
stream, and reads states with altered insides and a checksum that fits. A failure names its round: --seed repeats it.
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import json
import random
import sys
import time
from typing import NamedTuple

import zstandard
from peak_memory import peak_memory
from streams import encode_with_libvpx, moving_images

import codec
from codec.encoding.rebase import rebase
from codec.errors import InvalidBitstream, InvalidState, UnsupportedFeature
from codec.frame import Image
from codec.state import _HEADER, BYTES_VERSION, DecoderState, _bytes_digest

SMALL = [(1, 1), (33, 47), (64, 48), (16, 80)]
MEMORY = 1 << 30
TELL_EVERY = 10_000


def streams(seed: int = 0) -> list[list[bytes]]:
    """A stream of four frames of each size, each of another VP8 version and number of partitions."""
    return [
        encode_with_libvpx(moving_images(*size, count=4, seed=seed + i), profile=i, slices=1 << i)
        for i, size in enumerate(SMALL)
    ]


def mutated(packets: list[bytes], rnd: random.Random) -> list[bytes]:
    """Bits flipped, bytes changed, cut out or put in, frames truncated or exchanged."""
    frames = [bytearray(data) for data in packets]
    for _ in range(rnd.choice([1, 1, 2, 5, 20])):
        if rnd.randrange(6) == 0:
            rnd.shuffle(frames)
        elif frame := rnd.choice(frames):
            _alter(frame, rnd)
    return [bytes(frame) for frame in frames]


def _alter(data: bytearray, rnd: random.Random) -> None:
    """Change something, rather near the beginning."""
    at = rnd.randrange(min(len(data), rnd.choice([3, 10, 40, 200, 10**6])))
    kind = rnd.randrange(5)
    if kind == 0:
        data[at] ^= 1 << rnd.randrange(8)
    elif kind == 1:
        data[at] = rnd.randrange(256)
    elif kind == 2:
        del data[at : at + rnd.choice([1, 2, 10, 1000])]
    elif kind == 3:
        data[at:at] = rnd.randbytes(rnd.choice([1, 3, 30]))
    else:
        del data[rnd.randrange(len(data)) :]


def with_checksum(kind: int, base: bytes, compressed: bytes) -> bytes:
    """Bytes of a state that somebody made who can count: the checksum fits whatever they hold."""
    digest = _bytes_digest(kind, base, compressed)
    return _HEADER.pack(b"XCDS", BYTES_VERSION, kind, base, digest) + compressed


def mutated_state(state: DecoderState, base: DecoderState | None, rnd: random.Random) -> bytes:
    """A state's bytes, altered before or after they were compressed."""
    good = state.to_bytes(base=base)
    _, _, kind, base_digest, _ = _HEADER.unpack_from(good)
    compressed = bytearray(good[_HEADER.size :])
    if rnd.random() < 0.2:
        _alter(compressed, rnd)
    else:
        payload = bytearray(zstandard.ZstdDecompressor().decompress(bytes(compressed)))
        for _ in range(rnd.choice([1, 1, 3])):
            if payload:
                _alter(payload, rnd)
        compressed[:] = zstandard.ZstdCompressor().compress(bytes(payload))
    if rnd.random() < 0.1:
        kind ^= 1
    return with_checksum(kind, base_digest, bytes(compressed))


class Film(NamedTuple):
    """A stream, the state after each of its frames, and the pictures that it shows."""

    packets: list[bytes]
    states: list[DecoderState]
    images: list[Image]


def play(packets: list[bytes]) -> Film:
    """Decode an intact stream."""
    state, film = None, Film(packets, [], [])
    for data in packets:
        state, image = codec.decode(state, data)
        film.states.append(state)
        film.images.append(image or state.references.last.crop(state.width, state.height))
    return film


@dataclasses.dataclass
class Counts:
    """Altered frames and states that were given to each function, and what was refused of them."""

    decoded: int = 0
    rebased: int = 0
    states: int = 0
    refused: int = 0


class Fuzzer:
    """Rounds over the streams of `SMALL`; each is repeatable by its number."""

    def __init__(self) -> None:
        self.films = [play(packets) for packets in streams()]
        self.others = [play(packets) for packets in streams(100)]
        self.counts = Counts()

    def round(self, number: int) -> None:
        """One mutated stream; AssertionError, or an error that is not the codec's, is a fault."""
        rnd = random.Random(number)
        place = rnd.randrange(len(self.films))
        film, other = self.films[place], self.others[place]
        known = set(film.packets)
        begin = rnd.randrange(len(film.packets))
        state = film.states[begin - 1] if begin else None
        for data in mutated(film.packets[begin:], rnd):
            altered = data not in known
            before, after = state, self._decode(state, data, altered)
            if after is not None:
                onto = rnd.choice([state or film.states[0], *other.states])
                self._rebase(onto, rnd.choice(other.images), data, before, altered)
            state = after or state
        self._read_state(film, state, rnd)

    def _decode(
        self, state: DecoderState | None, data: bytes, altered: bool
    ) -> DecoderState | None:
        """The next state; None where the frame is refused, by the parser too."""
        self.counts.decoded += altered
        try:
            codec.parse(state, data)
            parsed = True
        except InvalidBitstream as error:
            assert str(error)
            parsed = False
        try:
            after, _ = codec.decode(state, data)
        except InvalidBitstream:
            assert not parsed
            self.counts.refused += altered
            return None
        assert parsed or not data
        return after

    def _rebase(
        self,
        onto: DecoderState,
        image: Image,
        data: bytes,
        before: DecoderState | None,
        altered: bool,
    ) -> None:
        """A frame that came out is decoded to the state that it promises."""
        self.counts.rebased += altered
        try:
            made = rebase(onto, image, data, before)
        except (InvalidBitstream, UnsupportedFeature):
            self.counts.refused += altered
            return
        assert codec.decode(onto, made.data)[0] == made.state

    def _read_state(self, film: Film, after: DecoderState | None, rnd: random.Random) -> None:
        """What comes out of altered bytes is a state that frames can follow and that travels on."""
        state = after or rnd.choice(film.states)
        if rnd.random() < 0.1:
            state = state.without_references()
        base = rnd.choice([None, *film.states])
        self.counts.states += 1
        try:
            read = DecoderState.from_bytes(mutated_state(state, base, rnd), base=base)
        except InvalidState as error:
            assert str(error) and "\n" not in str(error)
            self.counts.refused += 1
            return
        assert DecoderState.from_bytes(read.to_bytes()) == read
        for data in film.packets[1:]:
            try:
                codec.parse(read, data)
                if read.references is not None:
                    read, _ = codec.decode(read, data)
            except InvalidBitstream:
                return


def run(frames: int, first: int, fuzzer: Fuzzer, tell: bool = False) -> dict[str, float]:
    """Rounds from number `first` on until so many altered frames and states were tried; raises at the first fault."""
    begun, number, counts = time.monotonic(), first, fuzzer.counts
    while (tried := counts.decoded + counts.rebased + counts.states) < frames:
        try:
            fuzzer.round(number)
        except BaseException as error:
            error.add_note(f"in round {number}: --seed {number} --frames 1 repeats it")
            raise
        number += 1
        assert peak_memory() < MEMORY, f"{peak_memory() >> 20} MiB by round {number - 1}"
        if tell and number % TELL_EVERY == 0:
            print(f"round {number}: {tried} frames and states, {counts}", file=sys.stderr)
    seconds = time.monotonic() - begun
    return {
        **dataclasses.asdict(counts),
        "rounds": number - first,
        "seconds": round(seconds, 1),
        "MiB": peak_memory() >> 20,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--frames", type=int, default=1_000_000, help="altered frames and states")
    options.add_argument("--seed", type=int, default=0, help="number of the first round")
    chosen = options.parse_args()
    faulthandler.enable()
    print(json.dumps(run(chosen.frames, chosen.seed, Fuzzer(), tell=True)))


if __name__ == "__main__":
    main()
