"""Kernels that travel: packed for a pinned processor, used from a folder that cannot be written, nothing compiled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from codec.kernel_cache import INTERPRETED
from excamera_dask.kernels import shipped as shipped_kernels
from excamera_dask.kernels.shipped import CACHE, MANIFEST, SHIPPED, missing_flags

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="nothing is compiled"),
    pytest.mark.timeout(900),  # the first test waits until all is compiled
]

LOADED = """
import json
from excamera_dask.kernels import shipped as shipped_kernels
folder = shipped_kernels.install()
loaded = shipped_kernels.verify()
print(json.dumps({"folder": str(folder), "kernels": loaded.kernels}))
"""
ENCODED = """
import sys
from excamera_dask.kernels import shipped as shipped_kernels
shipped_kernels.install()
from fractions import Fraction
import numpy as np
import excamera_dask
from codec.frame import Image
from excamera_dask.formats.y4m import Y4mWriter
folder = sys.argv[1]
scene = np.random.default_rng(5).integers(0, 255, (160, 160), dtype=np.uint8)
with Y4mWriter(f"{folder}/in.y4m", 96, 80, Fraction(25)) as writer:
    for n in range(9):
        y = np.ascontiguousarray(scene[n : n + 80, 2 * n : 2 * n + 96])
        writer.write(Image(y, y[::2, ::2].copy(), 255 - y[::2, ::2]))
report = excamera_dask.encode(
    f"{folder}/in.y4m", f"{folder}/out.ivf", executor="sync", encoder="libvpx", chunk_frames=3
)
from excamera_dask.kernels.warm_up import count_loads
kernels, compiled = count_loads()
print(report.chunks, kernels > 10, compiled)
"""
REFUSED = """
from excamera_dask.kernels import shipped as shipped_kernels
try:
    shipped_kernels.prepare()
except shipped_kernels.KernelMismatch as mismatch:
    print(mismatch)
"""


def level() -> str:
    """A processor level that this machine's processor has."""
    return (
        "generic" if missing_flags("x86-64-v3") or os.uname().machine != "x86_64" else "x86-64-v3"
    )


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without anything of Numba's, and with these changes."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("NUMBA_") and name not in (SHIPPED, "EXCAMERA_CACHE_DIR")
    }
    return {**kept, **changes}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Kernels packed for a pinned level, in a folder that nobody can write, root neither."""
    folder = tmp_path_factory.mktemp("shipped") / "kernels"
    pins = {"NUMBA_CPU_NAME": level(), "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, "-m", "excamera_dask.kernels.shipped", str(folder)]
    subprocess.run(command, check=True, env=environment(**pins), capture_output=True, timeout=800)
    mounted = False
    if os.geteuid() == 0:  # permissions do not bind root, a mount does
        bind = ["mount", "--bind", str(folder), str(folder)]
        mounted = subprocess.run(bind, capture_output=True).returncode == 0
        if mounted:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
    else:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)
    elif os.geteuid() != 0:
        for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            path.chmod(0o755)


def run(
    code: str, shipped: Path, temporary: Path, under: Sequence[str] = (), **changes: str
) -> str:
    """Run a program that finds the shipped kernels, `under` another; returns what it prints."""
    temporary.mkdir(exist_ok=True)
    where = environment(**{SHIPPED: str(shipped), "TMPDIR": str(temporary)}, **changes)
    done = subprocess.run(
        [*under, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=where,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_nothing_is_compiled_where_shipped_kernels_fit(shipped: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        (shipped / "file").touch()
    first = json.loads(run(LOADED, shipped, tmp_path / "tmp"))
    assert first["kernels"] > 10
    assert Path(first["folder"]) == shipped / CACHE
    kept = [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()]
    assert not kept


@pytest.mark.slow
def test_a_whole_encode_compiles_nothing(shipped: Path, tmp_path: Path) -> None:
    """What is packed is all that there is, not only what `verify` loads."""
    code = ENCODED.replace("sys.argv[1]", repr(str(tmp_path)))
    assert run(code, shipped, tmp_path / "tmp") == "3 True []"


@pytest.mark.slow
def test_they_run_on_the_oldest_processor_of_their_level(shipped: Path, tmp_path: Path) -> None:
    """An emulated Haswell, which knows no instruction beyond x86-64-v3, decodes, encodes and rebases with them."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None or level() != "x86-64-v3":
        pytest.skip("qemu-x86_64 is not on PATH (Debian: qemu-user)")
    told = json.loads(run(LOADED, shipped, tmp_path / "tmp", [emulator, "-cpu", "Haswell"]))
    assert told["kernels"] > 10


@pytest.mark.slow
def test_the_pins_are_taken_from_the_manifest_where_nobody_sets_them(
    shipped: Path, tmp_path: Path
) -> None:
    code = f"{LOADED}\nimport numba; print(numba.config.CPU_NAME, repr(numba.config.CPU_FEATURES))"
    assert run(code, shipped, tmp_path / "tmp").splitlines()[1] == f"{level()} ''"


@pytest.mark.slow
def test_another_processor_is_named(shipped: Path, tmp_path: Path) -> None:
    line = run(REFUSED, shipped, tmp_path / "tmp", NUMBA_CPU_NAME="nehalem")
    assert line == (
        f"{shipped}: shipped kernels do not fit: NUMBA_CPU_NAME is nehalem, compiled for {level()}; "
        "build the image anew (excamera lambda build)"
    )


def changeable_copy(shipped: Path, to: Path) -> Path:
    """Of what nobody can write."""
    shutil.copytree(shipped, to)
    for path in [to, *to.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return to


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [("Python", "3.9.1 (main)"), ("Numba", "0.50.0"), ("codec sources", "codec-0123456789abcdef")],
)
def test_what_differs_is_named(shipped: Path, tmp_path: Path, name: str, value: str) -> None:
    other = changeable_copy(shipped, tmp_path / "other")
    manifest = json.loads((shipped / MANIFEST).read_text())
    (other / MANIFEST).write_text(json.dumps({**manifest, name: value}))
    line = run(REFUSED, other, tmp_path / "tmp")
    assert line.startswith(f"{other}: shipped kernels do not fit: {name} is ")
    assert line.endswith(
        f", compiled for {value.split()[0]}; build the image anew (excamera lambda build)"
    )


@pytest.mark.slow
def test_a_kernel_that_is_missing_is_counted_and_named(shipped: Path, tmp_path: Path) -> None:
    other = changeable_copy(shipped, tmp_path / "other")
    gone = [path for path in (other / CACHE).rglob("*.nb?") if path.name.startswith("borders.")]
    assert gone
    for path in gone:
        path.unlink()
    line = run(REFUSED, other, tmp_path / "tmp")
    assert "kernels had to be compiled (codec.borders." in line
    assert line.count("\n") == 0


def test_without_shipped_kernels_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SHIPPED, raising=False)
    assert shipped_kernels.install() is None
    assert shipped_kernels.prepare() is None


def test_a_folder_without_kernels_is_told(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    line = run(REFUSED, tmp_path / "nothing", tmp_path / "tmp")
    assert line == f"{tmp_path / 'nothing'}: no shipped kernels (No such file or directory)"
    (tmp_path / MANIFEST).write_text("[]")
    line = run(REFUSED, tmp_path, tmp_path / "tmp")
    assert line == f"{tmp_path / MANIFEST}: not a list of shipped kernels"


def test_whoever_comes_too_late_is_told(tmp_path: Path) -> None:
    code = f"import codec.kernel{REFUSED}"
    line = run(code, tmp_path, tmp_path / "tmp")
    assert line == "the codec was imported before its shipped kernels were installed"


def test_kernels_for_just_this_processor_are_not_packed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "excamera_dask.kernels.shipped", str(tmp_path / "kernels")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode != 0
    assert "NUMBA_CPU_NAME and NUMBA_CPU_FEATURES must be set" in done.stderr
    assert not (tmp_path / "kernels").exists()


def test_what_a_processor_lacks_is_listed(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags\t\t: fpu sse4_2 ssse3 popcnt avx2 bmi1 fma movbe abm\n")
    assert missing_flags("x86-64-v3", info) == ["bmi2", "f16c"]
    assert missing_flags("x86-64-v2", info) == []
    assert missing_flags("neoverse-n1", info) == []
    assert missing_flags("x86-64-v3", tmp_path / "nothing") == []
