"""Our inter frames against vpxenc's: a chain of `encode_given_state` at fixed quantizers, from vpxenc's own key frame.

    python benchmarks/encoder_rd.py clip.mp4 [clip.mp4 ...] --first 1 --frames 12 --json encoder.json

vpxenc codes the frames in one pass at `--min-q = --max-q`, good quality, cpu-used 0, without lag or hidden frames. We begin
from the state after its first frame and code the same pictures at the same quantizer indices. Bytes and quality are those
of the frames after the first; processor time is that of a frame as a ratio to one thread of vpxdec decoding vpxenc's stream.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from codec import DecoderState, decode, parse
from codec.encoding.encoder import encode_given_state
from codec.encoding.quality import mean_squared_error, overall_psnr, ssim, ssim_db
from codec.frame import Image
from excamera_dask.allocation import keep_freed_memory
from excamera_dask.formats.ivf import split_ivf
from excamera_dask.measuring.bd_rate import bd_rate
from excamera_dask.sources import open_source, read_frames

QUANTIZERS = (10, 20, 30, 40, 50)


def main() -> None:
    keep_freed_memory()  # as the command and its workers do
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--quantizers", type=int, nargs="+", default=QUANTIZERS)
    parser.add_argument("--tune", default="ssim")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = [measure_clip(clip, arguments) for clip in arguments.clips]
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


def measure_clip(clip: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Points of both encoders and the BD-rates between them."""
    images = load(clip, arguments.first, arguments.frames + 1)
    ours, theirs, ratios = [], [], []
    for quantizer in arguments.quantizers:
        with tempfile.TemporaryDirectory(prefix="excamera-encoder-") as folder:
            stream = encode_with_vpxenc(images, quantizer, arguments.tune, Path(folder))
            frames = split_ivf(stream.read_bytes())
            decode_time = time_vpxdec(stream) / len(frames)
        state, _ = decode(None, frames[0])
        theirs.append(measure(frames[1:], decode_all(state, frames[1:]), images[1:]))
        coded, seconds = chain(state, images[1:], frames[1:])
        ours.append(measure(coded, decode_all(state, coded), images[1:]))
        ratios.append(seconds / decode_time)
        print(
            clip.name,
            quantizer,
            theirs[-1],
            ours[-1],
            f"{seconds * 1e3:.0f} ms",
            f"{ratios[-1]:.1f}x",
            flush=True,
        )
    result: dict[str, Any] = {
        "clip": clip.name,
        "vpxenc": theirs,
        "ours": ours,
        "time_ratios": ratios,
    }
    for figure in ("psnr", "ssim_db"):
        result[f"bd_rate_{figure}"] = bd_rate(
            *([(p["bytes"], p[figure]) for p in points] for points in (theirs, ours))
        )
        print(f"{clip.name}: BD-rate {figure} {result[f'bd_rate_{figure}']:+.2f} %", flush=True)
    return result


def load(clip: Path, first: int, count: int) -> list[Image]:
    """The clip's frames first .. first + count - 1."""
    return read_frames(open_source(clip), first, count)


def encode_with_vpxenc(images: list[Image], quantizer: int, tune: str, folder: Path) -> Path:
    """Write a stream of one pass at a fixed quantizer."""
    raw, stream = folder / "in.i420", folder / "out.ivf"
    raw.write_bytes(b"".join(image.to_bytes() for image in images))
    command = [
        *(
            "vpxenc",
            "--codec=vp8",
            "--quiet",
            "-y",
            "--ivf",
            "--i420",
            "--good",
            "--cpu-used=0",
            "--passes=1",
            "--threads=1",
        ),
        *(f"--width={images[0].width}", f"--height={images[0].height}", f"--tune={tune}"),
        *("--auto-alt-ref=0", "--lag-in-frames=0", "--kf-max-dist=9999", "--end-usage=vbr"),
        *(
            "--target-bitrate=1000000",
            f"--min-q={quantizer}",
            f"--max-q={quantizer}",
            "-o",
            str(stream),
            str(raw),
        ),
    ]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return stream


def time_vpxdec(stream: Path) -> float:
    """Seconds of processor time of the fastest of three runs."""
    command = ["vpxdec", "--threads=1", "--noblit", str(stream)]
    return min(_processor_time(command) for _ in range(3))


def _processor_time(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def chain(
    state: DecoderState, images: list[Image], frames: list[bytes]
) -> tuple[list[bytes], float]:
    """Our frames at the quantizer indices of vpxenc's, and seconds of processor time a frame (the median)."""
    coded, seconds = [], []
    theirs = state
    for image, frame in zip(images, frames, strict=True):
        q_index = parse(theirs, frame).header.quantizer.y_ac
        theirs, _ = decode(theirs, frame)
        begin = time.process_time()
        encoded = encode_given_state(state, image, q_index=q_index)
        seconds.append(time.process_time() - begin)
        coded.append(encoded.data)
        state = encoded.state
    return coded, sorted(seconds)[len(seconds) // 2]


def decode_all(state: DecoderState, frames: list[bytes]) -> list[Image]:
    """The pictures that frames show after a state."""
    shown = []
    for frame in frames:
        state, image = decode(state, frame)
        assert image is not None
        shown.append(image)
    return shown


def measure(frames: list[bytes], decoded: list[Image], images: list[Image]) -> dict[str, float]:
    """Bytes, and luma quality over all frames."""
    pairs = list(zip(images, decoded, strict=True))
    similarity = sum(ssim(a, b).y for a, b in pairs) / len(pairs)
    psnr = overall_psnr([mean_squared_error(a, b) for a, b in pairs]).y
    return {
        "bytes": sum(map(len, frames)),
        "psnr": round(psnr, 3),
        "ssim_db": round(ssim_db(similarity), 3),
    }


if __name__ == "__main__":
    main()
