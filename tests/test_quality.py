"""PSNR and SSIM against ffmpeg's filters, against values that they gave, and against a plain definition."""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from codec.encoding import quality
from codec.frame import Image


def _images(width: int, height: int, count: int) -> tuple[list[Image], list[Image]]:
    """Smooth pictures and noisy copies, the same on every machine (integer arithmetic only)."""
    y, x = np.mgrid[0:height, 0:width]
    half_y, half_x = np.mgrid[0 : (height + 1) // 2, 0 : (width + 1) // 2]
    originals, copies = [], []
    for n in range(count):
        planes = (
            (x * 3 + y * 2 + x * y // 16 + 17 * n) % 256,
            (half_x * 5 + half_y + 9 * n) % 200,
            120 + (half_x * half_y + n) % 16,
        )
        noise = [(p * 7 + i * 31 + n * 5 + np.cumsum(p, 1)) % 13 - 6 for i, p in enumerate(planes)]
        originals.append(Image(*(p.astype(np.uint8) for p in planes)))
        noisy = (np.clip(p + e, 0, 255) for p, e in zip(planes, noise, strict=True))
        copies.append(Image(*(p.astype(np.uint8) for p in noisy)))
    return originals, copies


def _summary(ffmpeg: str, folder: Path, name: str, size: str) -> list[float]:
    raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", size, "-i"]
    # without -cpuflags 0 ffmpeg's assembly counts blocks past the edge of narrow planes
    command = [
        ffmpeg,
        "-hide_banner",
        "-cpuflags",
        "0",
        *raw,
        str(folder / "b"),
        *raw,
        str(folder / "a"),
    ]
    log = subprocess.run(
        [*command, "-lavfi", name, "-f", "null", "-"], capture_output=True, text=True, check=True
    ).stderr
    line = next(line for line in log.splitlines() if "Parsed" in line and name.upper() in line)
    return [float(value) for value in re.findall(r"(?:y|u|v|average|Y|U|V|All):([\d.]+)", line)]


@pytest.mark.ffmpeg
@pytest.mark.parametrize(("width", "height"), [(176, 144), (123, 77), (17, 19), (64, 16)])
def test_agrees_with_ffmpeg(ffmpeg: str, tmp_path: Path, width: int, height: int) -> None:
    originals, copies = _images(width, height, 3)
    (tmp_path / "a").write_bytes(b"".join(image.to_bytes() for image in originals))
    (tmp_path / "b").write_bytes(b"".join(image.to_bytes() for image in copies))
    pairs = list(zip(originals, copies, strict=True))
    psnr = quality.overall_psnr([quality.mean_squared_error(*pair) for pair in pairs])
    ssim = quality.mean([quality.ssim(*pair) for pair in pairs])
    size = f"{width}x{height}"
    assert _summary(ffmpeg, tmp_path, "psnr", size) == pytest.approx(psnr, abs=6e-7)
    assert _summary(ffmpeg, tmp_path, "ssim", size) == pytest.approx(ssim, abs=2e-6)


def test_gives_the_values_that_ffmpeg_gave() -> None:
    originals, copies = _images(123, 77, 2)
    pairs = list(zip(originals, copies, strict=True))
    psnr = quality.overall_psnr([quality.mean_squared_error(*pair) for pair in pairs])
    ssim = quality.mean([quality.ssim(*pair) for pair in pairs])
    assert psnr == pytest.approx(FFMPEG_PSNR, abs=6e-7)
    assert ssim == pytest.approx(FFMPEG_SSIM, abs=2e-6)


FFMPEG_PSNR = (36.707255, 36.583652, 36.801401, 36.701809)
FFMPEG_SSIM = (0.983226, 0.964546, 0.881551, 0.962885)


def test_ssim_is_its_definition() -> None:
    (original, *_), (copy, *_) = _images(40, 28, 1)
    a, b = original.y.astype(float), copy.y.astype(float)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2 * 63 / 64
    values = []
    for top in range(0, 28 - 7, 4):
        for left in range(0, 40 - 7, 4):
            p, q = (plane[top : top + 8, left : left + 8] for plane in (a, b))
            means = (2 * p.mean() * q.mean() + c1) / (p.mean() ** 2 + q.mean() ** 2 + c1)
            covariance = ((p - p.mean()) * (q - q.mean())).mean()
            values.append(means * (2 * covariance + c2) / (p.var() + q.var() + c2))
    assert quality.ssim(original, copy).y == pytest.approx(np.mean(values), abs=1e-4)


def test_equal_pictures_are_perfect() -> None:
    (image,), _ = _images(33, 21, 1)
    assert quality.psnr(image, image) == (math.inf,) * 4
    assert quality.ssim(image, image) == (1.0,) * 4
    assert quality.ssim_db(1.0) == math.inf
    assert quality.ssim_db(0.99) == pytest.approx(20)


def test_tiny_pictures_have_a_value() -> None:
    (image,), (copy,) = _images(1, 1, 1)
    assert all(0 < value <= 1 for value in quality.ssim(image, copy))


def test_sizes_must_agree() -> None:
    (a,), _ = _images(32, 16, 1)
    (b,), _ = _images(16, 32, 1)
    for measure in (quality.psnr, quality.ssim):
        with pytest.raises(ValueError, match="32x16 and 16x32"):
            measure(a, b)
