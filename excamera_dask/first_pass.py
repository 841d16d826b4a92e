"""The first pass: one chunk through a production VP8 encoder, by itself: `vpxenc`, else libvpx inside PyAV."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import IO, cast

import av
import numpy as np

from codec.frame import Image
from excamera_dask.allocation import with_huge_pages
from excamera_dask.errors import FirstPassError, FirstPassUnavailable
from excamera_dask.formats.ivf import is_key_frame, is_shown, split_ivf
from excamera_dask.formats.y4m import y4m_header
from executors import TryElsewhere

VPXENC, LIBVPX = "vpxenc", "libvpx"
UNLIMITED_KBPS = 2_000_000
NO_KEY_FRAME = 9999
CHUNK_RATE = Fraction(30)
QUANTIZER_INDICES = (
    0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 15, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 30, 31, 33, 35, 37, 39,
    41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 64, 67, 70, 73, 76, 79, 82, 85, 88, 91, 94, 97, 100, 103, 106, 109, 112,
    115, 118, 121, 124, 127,
)  # fmt: skip
"""libvpx's quantizer index for each of its quantizers 0 .. 63."""
ENCODER_SECONDS = 300.0
ENCODER_SECONDS_A_MEGAPIXEL = 60.0
"""How long vpxenc may take for a chunk before it counts as hung: far more than its slowest settings need."""
SHORT_OF_MEMORY = 60.0
"""Seconds after an encoder was killed in which a process's encoders run one at a time."""
_DEADLINES = {"best": "best", "good": "good", "realtime": "rt"}


class EncoderKilled(FirstPassError, TryElsewhere):
    """The first-pass encoder was ended by the system or hung: elsewhere, or with more memory, the same may go well."""


@dataclasses.dataclass(frozen=True)
class FirstPassSettings:
    """How chunks are encoded; the names are vpxenc's, quantizers 0 (best) to 63.

    encoder: "vpxenc" or "libvpx". passes: 2 only with vpxenc. min_q: None lets key frames have what two passes would
    give them, see `lowest_q`. target_bitrate in kbit/s; the default never binds. extra: further vpxenc options, as
    written on its command line ("--drop-frame=0"), or pairs "name=value" for libvpx in PyAV.

    deadline and cpu_used: None are "realtime" and -1; where one of the two or two passes are asked for, "good" and 2.
    The defaults are the original tools' but for these three (docs/decisions/0008).
    """

    encoder: str = VPXENC
    cq_level: int = 30
    passes: int = 1
    deadline: str | None = None
    cpu_used: int | None = None
    end_usage: str = "cq"
    min_q: int | None = None
    max_q: int = 63
    target_bitrate: int = UNLIMITED_KBPS
    undershoot_pct: int = 100
    buf_sz: int = 40000
    buf_initial_sz: int = 10000
    buf_optimal_sz: int = 20000
    auto_alt_ref: int = 1
    lag_in_frames: int = 0
    arnr_maxframes: int = 0
    arnr_strength: int = 3
    arnr_type: int = 3
    token_parts: int = 0
    tune: str = "ssim"
    noise_sensitivity: int = 0
    sharpness: int = 0
    static_thresh: int = 0
    max_intra_rate: int = 0
    profile: int = 0
    error_resilient: int = 0
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.encoder not in (VPXENC, LIBVPX):
            raise ValueError(f"first pass by {self.encoder!r}; it must be {VPXENC!r} or {LIBVPX!r}")
        if self.deadline not in (None, *_DEADLINES):
            raise ValueError(f"deadline {self.deadline!r}; it must be {', '.join(_DEADLINES)}")
        for name in ("cq_level", "min_q", "max_q"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 63:
                raise ValueError(f"{name} is {value}; it must lie in 0 .. 63")
        if self.min_q is not None and self.min_q > self.max_q:
            raise ValueError(f"min_q {self.min_q} is above max_q {self.max_q}")
        if self.end_usage == "cq" and not (self.min_q or 0) <= self.cq_level <= self.max_q:
            raise ValueError(f"cq_level {self.cq_level} must lie in min_q .. max_q")
        if self.passes not in (1, 2):
            raise ValueError(f"{self.passes} passes; there are 1 or 2")

    @property
    def lowest_q(self) -> int:
        """The best quantizer allowed, 0 .. 63.

        With two passes libvpx gives the key frame of a calm film a coarser quantizer at high cq levels; with one it
        takes the best that it may, and spends bits that nobody sees.
        """
        if self.min_q is not None:
            return self.min_q
        if self.passes == 2 or self.end_usage != "cq":
            return 0
        return min(max(0, (self.cq_level - 37) * 3 // 5), self.max_q)

    @property
    def cq_index(self) -> int | None:
        """The quantizer index 0 .. 127 that the cq level stands for; None where the rate is controlled otherwise."""
        return QUANTIZER_INDICES[self.cq_level] if self.end_usage == "cq" else None

    @property
    def pace(self) -> tuple[str, int]:
        """libvpx's deadline and its --cpu-used: those given, or what takes least time for the same pictures."""
        hasty = self.deadline is None and self.cpu_used is None and self.passes == 1
        deadline = self.deadline or ("realtime" if hasty else "good")
        if self.cpu_used is not None:
            return deadline, self.cpu_used
        return deadline, -1 if deadline == "realtime" else 2

    @property
    def unrepeatable(self) -> str | None:
        """Why libvpx may give other bytes at another run, and what to do; None where it does not.

        With the tuning for SSIM at its slowest it weighs macroblocks by memory that it never set, whatever that holds;
        at a speed that it sets itself the bytes depend on the clock (docs/decisions/0008).
        """
        deadline, cpu_used = self.pace
        if deadline == "realtime" and cpu_used >= 0:
            return "a realtime speed that libvpx sets by the clock: use a --cpu-used below 0"
        slowest = deadline == "best" or (deadline == "good" and cpu_used < 1)
        if slowest and self.tune == "ssim":
            return "its slowest search for SSIM: use --good --cpu-used=1 or --tune=psnr"
        return None

    def paced(self, chained: bool) -> FirstPassSettings:
        """These settings with their pace written out; key frames that are not replaced (not `chained`) are worth more time."""
        settings = self if chained or self.deadline else dataclasses.replace(self, deadline="good")
        deadline, cpu_used = settings.pace
        return dataclasses.replace(self, deadline=deadline, cpu_used=cpu_used)

    def full_effort(self) -> FirstPassSettings:
        """These settings as libvpx in one piece is compared with: as many passes as the encoder knows, no haste."""
        return dataclasses.replace(
            self,
            passes=2 if self.encoder == VPXENC else 1,
            deadline="best" if self.deadline == "best" else "good",
            cpu_used=0,
            min_q=self.min_q or 0,
        )

    def choose(self, encoder: str | None = None) -> FirstPassSettings:
        """These settings with the encoder that this machine offers: once, on the client, for the whole job.

        encoder: None takes vpxenc if it is on PATH, else libvpx, which knows one pass only. Raises
        FirstPassUnavailable.
        """
        if encoder is None:
            encoder = VPXENC if _vpxenc_version() else LIBVPX
        if encoder == LIBVPX and self.passes == 2:
            raise FirstPassUnavailable(
                "two passes need vpxenc (Debian: vpx-tools, conda: libvpx): libvpx inside PyAV makes one"
            )
        encoder_version(encoder)
        return dataclasses.replace(self, encoder=encoder)


def encoder_version(encoder: str) -> str:
    """The version of an encoder in words; FirstPassUnavailable, saying what to install, where it is missing."""
    if encoder == VPXENC:
        version = _vpxenc_version()
        if version is None:
            raise FirstPassUnavailable(
                "vpxenc, chosen for this job, is not on PATH here: install vpx-tools (Debian) or libvpx (conda), "
                "or run the job with --first-pass libvpx"
            )
        return f"vpxenc {version}"
    if LIBVPX not in av.codecs_available:
        raise FirstPassUnavailable(
            "this PyAV has no libvpx encoder: install the av wheel from PyPI, or vpxenc, here"
        )
    return f"libvpx in PyAV {av.__version__}"


@functools.cache
def _vpxenc_version() -> str | None:
    path = shutil.which(VPXENC)
    if path is None:
        return None
    try:
        help_ = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"vp8\s+-.*Encoder v(\S+)", help_.stdout + help_.stderr)
    return found.group(1) if found else None


def encode_chunk(images: Sequence[Image], settings: FirstPassSettings) -> list[bytes]:
    """One chunk as VP8 frames in decoding order, hidden ones included: the first a key frame, and no other.

    images: one or more pictures of the same size. The bytes depend on the arguments and the encoder's version alone.
    Raises FirstPassUnavailable where the encoder is missing, FirstPassError where it fails, EncoderKilled where that is
    not its own doing.
    """
    if not images:
        raise ValueError("a chunk has at least one frame")
    if any(image.y.shape != images[0].y.shape for image in images):
        raise ValueError("the pictures of a chunk have one size")
    encoder_version(settings.encoder)
    encode: Callable[[Sequence[Image], FirstPassSettings], list[bytes]]
    encode = _encode_with_vpxenc if settings.encoder == VPXENC else _encode_with_pyav
    frames = encode(images, settings)
    _check(frames, len(images), settings)
    return frames


def _check(frames: list[bytes], expected: int, settings: FirstPassSettings) -> None:
    shown = sum(map(is_shown, frames))
    keys = [number for number, frame in enumerate(frames) if is_key_frame(frame)]
    if shown != expected:
        raise FirstPassError(f"{settings.encoder} gave {shown} frames for {expected}")
    if keys != [0]:
        raise FirstPassError(f"{settings.encoder} put key frames at {keys}, wanted one at 0")


# vpxenc


def vpxenc_arguments(settings: FirstPassSettings) -> list[str]:
    """vpxenc's options for a chunk, all but input and output."""
    s = settings
    deadline, cpu_used = s.pace
    return [
        "--codec=vp8", "--ivf", "--quiet", "--disable-warning-prompt", "--threads=1",
        f"--{_DEADLINES[deadline]}", f"--cpu-used={cpu_used}", f"--passes={s.passes}", f"--profile={s.profile}",
        f"--end-usage={s.end_usage}", f"--cq-level={s.cq_level}", f"--min-q={s.lowest_q}", f"--max-q={s.max_q}",
        f"--target-bitrate={s.target_bitrate}", f"--undershoot-pct={s.undershoot_pct}", f"--buf-sz={s.buf_sz}",
        f"--buf-initial-sz={s.buf_initial_sz}", f"--buf-optimal-sz={s.buf_optimal_sz}",
        f"--auto-alt-ref={s.auto_alt_ref}", f"--lag-in-frames={s.lag_in_frames}",
        f"--arnr-maxframes={s.arnr_maxframes}", f"--arnr-strength={s.arnr_strength}", f"--arnr-type={s.arnr_type}",
        f"--token-parts={s.token_parts}", f"--tune={s.tune}", f"--noise-sensitivity={s.noise_sensitivity}",
        f"--sharpness={s.sharpness}", f"--static-thresh={s.static_thresh}",
        f"--max-intra-rate={s.max_intra_rate}", f"--error-resilient={s.error_resilient}",
        "--disable-kf", f"--kf-max-dist={NO_KEY_FRAME}", *s.extra,
    ]  # fmt: skip


def _encode_with_vpxenc(images: Sequence[Image], settings: FirstPassSettings) -> list[bytes]:
    with _raw_file() as source:
        try:
            _write_y4m(source, images)
            source.seek(0)
        except OSError as error:
            size = sum(plane.nbytes for image in images for plane in image) / 1e6
            limit = " (raise `ulimit -f`)" if error.errno == errno.EFBIG else ""
            raise FirstPassError(
                f"the pictures of a chunk ({size:.1f} MB) cannot be handed to vpxenc: {error.strerror}{limit}"
            ) from None
        with _memory.turn():
            result = _run_vpxenc(source, settings, _patience(images))
    killer = _signal_of(result.returncode)
    if killer is not None:
        if killer == "SIGKILL":
            _memory.is_short()
        cause = (
            " (out of memory? use fewer workers, or smaller chunks)" if killer == "SIGKILL" else ""
        )
        raise EncoderKilled(f"vpxenc was killed by {killer}{cause}")
    if result.returncode != 0:
        if _OUT_OF_MEMORY.search(result.stderr):
            _memory.is_short()
            raise EncoderKilled(vpxenc_failure(result))
        raise FirstPassError(vpxenc_failure(result))
    return split_ivf(result.stdout)


def _run_vpxenc(
    source: IO[bytes], settings: FirstPassSettings, patience: float
) -> subprocess.CompletedProcess[bytes]:
    path = f"/dev/fd/{source.fileno()}"
    try:
        return subprocess.run(
            [VPXENC, *vpxenc_arguments(settings), "-o", "-", path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=(source.fileno(),),
            env=with_huge_pages(),
            timeout=patience,
        )
    except subprocess.TimeoutExpired:
        raise EncoderKilled(f"vpxenc did not end within {patience:.0f} s") from None
    except (FileNotFoundError, PermissionError) as error:
        raise FirstPassUnavailable(f"vpxenc cannot be started: {error.strerror}") from None
    except (
        OSError,
        MemoryError,
    ) as error:  # too many processes or open files, or no memory for one more
        _memory.is_short()
        reason = getattr(error, "strerror", None) or "out of memory"
        raise EncoderKilled(f"vpxenc cannot be started: {reason}") from None


_OUT_OF_MEMORY = re.compile(rb"memory alloc|alloc\w* memory|out of memory|failed to allocate", re.I)


def _patience(images: Sequence[Image]) -> float:
    """Seconds that vpxenc gets for these pictures."""
    megapixels = max(1.0, images[0].y.size / 1e6)
    return ENCODER_SECONDS + ENCODER_SECONDS_A_MEGAPIXEL * megapixels * len(images)


def _signal_of(code: int) -> str | None:
    """The name of the signal that an exit code tells of, the way of Python or of a shell; None where of none."""
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number).name if number > 0 else None
    except ValueError:
        return None


class _Memory:
    """Encoders of this process take turns for a while after the system has killed one of them."""

    def __init__(self) -> None:
        self._turns = threading.Lock()
        self._short_until = 0.0

    def is_short(self) -> None:
        self._short_until = time.monotonic() + SHORT_OF_MEMORY

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        if time.monotonic() >= self._short_until:
            yield
            return
        with self._turns:
            yield


_memory = _Memory()


def vpxenc_failure(result: subprocess.CompletedProcess[bytes]) -> str:
    """What vpxenc said on stderr, in one line and without its advice on usage."""
    lines = (line.strip() for line in result.stderr.decode(errors="replace").splitlines())
    said = [line for line in lines if line and not line.startswith(("Usage:", "Use --help"))]
    return f"vpxenc failed ({result.returncode}): {', '.join(said[:2]) or 'no message'}"


def _raw_file() -> IO[bytes]:
    """A file without a name, in memory where the system has such: nothing is left of it, whatever happens."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("excamera-first-pass"), "w+b")
    return tempfile.TemporaryFile()


def _write_y4m(file: IO[bytes], images: Iterable[Image]) -> None:
    for number, image in enumerate(images):
        if number == 0:
            file.write(y4m_header(image.width, image.height, CHUNK_RATE))
        file.write(b"FRAME\n" + image.to_bytes())


# libvpx inside PyAV


def pyav_options(settings: FirstPassSettings) -> dict[str, str]:
    """The same settings as options of libavcodec's libvpx encoder; its optimal buffer level cannot be set."""
    s = settings
    deadline, cpu_used = s.pace
    options: dict[str, object] = {
        "deadline": deadline, "cpu-used": cpu_used, "crf": s.cq_level, "b": s.target_bitrate * 1000,
        "qmin": s.lowest_q, "qmax": s.max_q, "undershoot-pct": s.undershoot_pct,
        "auto-alt-ref": s.auto_alt_ref, "lag-in-frames": s.lag_in_frames, "arnr-maxframes": s.arnr_maxframes,
        "arnr-strength": s.arnr_strength, "arnr-type": s.arnr_type, "slices": 1 << s.token_parts, "tune": s.tune,
        "noise-sensitivity": s.noise_sensitivity, "sharpness": s.sharpness, "static-thresh": s.static_thresh,
        "max-intra-rate": s.max_intra_rate, "profile": s.profile, "threads": 1,
        "g": NO_KEY_FRAME, "keyint_min": NO_KEY_FRAME,
    }  # fmt: skip
    if s.error_resilient:
        options["error-resilient"] = "default"
    options.update(dict(pair.split("=", 1) for pair in s.extra))
    return {name: str(value) for name, value in options.items()}


def _encode_with_pyav(images: Sequence[Image], settings: FirstPassSettings) -> list[bytes]:
    if settings.passes != 1:
        raise FirstPassError("libvpx in PyAV knows one pass only; use vpxenc for two")
    context = cast("av.VideoCodecContext", av.CodecContext.create(LIBVPX, "w"))
    context.width, context.height = images[0].width, images[0].height
    context.pix_fmt = "yuv420p"
    context.time_base = 1 / CHUNK_RATE
    context.framerate = CHUNK_RATE
    context.options = pyav_options(settings)
    try:
        packets = [
            p for pts, image in enumerate(images) for p in context.encode(video_frame(image, pts))
        ]
        packets += context.encode(None)
    except MemoryError:
        raise EncoderKilled(
            "libvpx in PyAV is out of memory: use fewer workers, or smaller chunks"
        ) from None
    except av.FFmpegError as error:
        if error.errno == errno.ENOMEM:
            raise EncoderKilled(f"libvpx in PyAV failed: {error.strerror}") from None
        raise FirstPassError(f"libvpx in PyAV failed: {error.strerror}") from None
    return [bytes(packet) for packet in packets]


def video_frame(image: Image, pts: int) -> av.VideoFrame:
    frame = av.VideoFrame(image.width, image.height, "yuv420p")
    for plane, pixels in zip(frame.planes, image, strict=True):
        height, width = pixels.shape
        rows = np.frombuffer(cast("memoryview", plane), np.uint8).reshape(-1, plane.line_size)
        rows[:height, :width] = pixels
    frame.pts = pts
    return frame
