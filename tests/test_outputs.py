"""Every command that writes a file: long names, rights, pipes, devices, links, closed streams, each for all of them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from fleet_simulation import START, Weather, World, tasks

from codec.frame import Image
from excamera_dask.cli import main
from excamera_dask.formats.y4m import Y4mWriter
from executors.aws_lambda.records.clusters import ClusterFolder

COMMAND = [sys.executable, "-c", "import sys; from excamera_dask.cli import main; sys.exit(main())"]
FAST = "-N 4 -x 1 --executor sync --progress none --first-pass libvpx"


class Films(NamedTuple):
    """A clip of 8 frames as Y4M, and what the commands make of it."""

    clip: Path
    webm: Path
    ivf: Path


class Writing(NamedTuple):
    """A command line with places for its films and its output, and the suffix of that."""

    line: str
    suffix: str
    asks: bool = False  # for -y before it overwrites

    def arguments(self, films: Films, output: str | Path) -> list[str]:
        """The command line; only the output may hold blanks."""
        places = {name: str(path) for name, path in films._asdict().items()}
        words = [word.format(**places, out="{out}") for word in self.line.split()]
        return [word.replace("{out}", str(output)) for word in words] + ["-y"] * self.asks


WRITINGS = {
    "encode-webm": Writing(f"encode {{clip}} -o {{out}} {FAST}", ".webm", asks=True),
    "encode-ivf": Writing(f"encode {{clip}} -o {{out}} {FAST}", ".ivf", asks=True),
    "decode": Writing("decode {webm} -o {out}", ".y4m", asks=True),
    "first-pass": Writing("step first-pass {clip} -o {out} --first-pass libvpx", ".ivf"),
    "state": Writing("step dump {ivf} {out}", ".state"),
    "page": Writing("cluster timeline film -o {out}", ".html"),
    "figures": Writing("cluster timeline film -o {out}", ".json"),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    folder = tmp_path_factory.mktemp("films")
    found = Films(folder / "clip.y4m", folder / "out.webm", folder / "out.ivf")
    scene = np.random.default_rng(3).integers(0, 255, (7, 9), np.uint8).repeat(8, 0).repeat(8, 1)
    with Y4mWriter(found.clip, 48, 32, Fraction(25)) as writer:
        for n in range(8):
            y = np.ascontiguousarray(scene[n : n + 32, n : n + 48])
            writer.write(Image(y, y[::2, ::2].copy(), 255 - y[::2, ::2]))
    for out in (found.webm, found.ivf):
        assert main(["encode", str(found.clip), "-o", str(out), *FAST.split()]) == 0
    return found


@pytest.fixture(scope="module", autouse=True)
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster that has ended, named film."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXCAMERA_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        world = World(weather=Weather(), seed=5, tasks=tasks(4))
        world.scale(2)
        world.run(100, lambda: len(set(world.done)) == 8)
        folder = ClusterFolder.create("film", started=START)
        folder.write(world.entries)
        folder.end(world.now, "closed")
        yield


@pytest.fixture(scope="module")
def right(films: Films, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Writing], bytes]:
    """The bytes that a command writes under a plain name."""
    known: dict[Writing, bytes] = {}

    def bytes_of(writing: Writing) -> bytes:
        if writing not in known:
            out = tmp_path_factory.mktemp("right") / f"plain{writing.suffix}"
            assert main(writing.arguments(films, out)) == 0
            known[writing] = out.read_bytes()
            assert known[writing]
        return known[writing]

    return bytes_of


@pytest.fixture(params=WRITINGS.values(), ids=WRITINGS)
def writing(request: pytest.FixtureRequest) -> Writing:
    return request.param  # type: ignore[no-any-return]


def assert_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, word: str
) -> None:
    capsys.readouterr()
    assert main(arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("excamera: ") and word in line and "internal" not in line


@pytest.fixture
def refused(
    films: Films,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., None]:
    """Run a command line in an empty folder and see it refused with an exit code and a word."""
    monkeypatch.chdir(tmp_path)

    def check(line: str, name: str, code: int, word: str) -> None:
        assert_refused(capsys, Writing(line, "").arguments(films, name), code, word)

    return check


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Names


@pytest.mark.parametrize("letter", ["a", "日", "\udcff"], ids=["ascii", "cjk", "bytes"])
@pytest.mark.parametrize("size", [241, 255])
def test_a_name_that_the_file_system_allows(
    writing: Writing,
    films: Films,
    right: Callable[[Writing], bytes],
    tmp_path: Path,
    letter: str,
    size: int,
) -> None:
    room = size - len(writing.suffix)
    width = len(os.fsencode(letter))
    name = letter * (room // width) + "b" * (room % width) + writing.suffix
    assert len(os.fsencode(name)) == size
    assert main(writing.arguments(films, tmp_path / name)) == 0
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == right(writing)


def test_a_name_that_it_does_not_allow(
    writing: Writing, films: Films, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / ("a" * (256 - len(writing.suffix)) + writing.suffix)
    assert_refused(capsys, writing.arguments(films, out), 1, "too long")
    assert names(tmp_path) == []


def test_names_are_printed_safely(
    films: Films, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a\nb \udcff\x1b[31m"
    out = tmp_path / f"{name}.webm"
    assert main([*WRITINGS["encode-webm"].arguments(films, "{}")[:3], str(out), *FAST.split()]) == 0
    assert main(["decode", str(out), "--md5"]) == 0
    told = capsys.readouterr()
    assert r"a\nb \xff\x1b[31m.webm" in told.err and r"a\nb \xff\x1b[31m.webm" in told.out
    assert len(told.err.splitlines()) == len(told.out.splitlines()) == 1
    assert_refused(capsys, ["decode", f"{out}?", "--md5"], 1, r"\xff\x1b[31m.webm?")


@pytest.mark.parametrize(
    "line",
    [
        "encode {clip} -o x.mp4",
        "encode {clip} -o x",
        "encode {clip} -o -",
        "decode {webm} -o x.yuv",
        "step first-pass {clip} -o x.webm",
        "step enc {clip} -I x -y 3 -o x.mp4",
        "bench rd {clip} --plot x.jpg",
        "bench where {clip} --plot x.jpg",
        "demo {clip} -o x.mkv",
        "cluster timeline film -o x.txt",
    ],
)
def test_a_suffix_that_cannot_be_is_wrong_usage(
    line: str, refused: Callable[..., None], tmp_path: Path
) -> None:
    refused(line, "", 2, "must end in .")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "line, word",
    [
        ("encode {clip} -o x.webm/", "names a folder"),
        ("decode {webm} -o x.y4m/", "names a folder"),
        ("step first-pass {clip} -o x.ivf/", "names a folder"),
        ("encode {clip} -o .webm", "needs a name before .webm"),
        ("encode {clip} -o x.webm -y -n", "exclude each other"),
        ("decode {webm} -o x.y4m -n -y", "exclude each other"),
    ],
)
def test_a_name_or_an_answer_that_cannot_be_is_wrong_usage(
    line: str, word: str, refused: Callable[..., None], tmp_path: Path
) -> None:
    refused(line, "", 2, word)
    assert names(tmp_path) == []


@pytest.mark.parametrize("place", ["-o {}", "-o x.webm --keep {}", "{} -o x.webm"])
def test_an_empty_path_is_wrong_usage(
    place: str, capsys: pytest.CaptureFixture[str], films: Films, tmp_path: Path
) -> None:
    """As a variable of a shell is that was never set."""
    clip = [] if place.startswith("{}") else [str(films.clip)]
    arguments = ["" if word == "{}" else word for word in place.split()]
    assert_refused(capsys, ["encode", *clip, *arguments], 2, "empty path")


# Rights


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o666, 0o751])
def test_what_is_overwritten_keeps_its_mode(
    writing: Writing, films: Films, right: Callable[[Writing], bytes], tmp_path: Path, mode: int
) -> None:
    out = tmp_path / f"out{writing.suffix}"
    out.write_text("old")
    out.chmod(mode)
    if os.geteuid() == 0:
        os.chown(out, 12345, 23456)
    before = out.stat()
    assert main(writing.arguments(films, out)) == 0
    after = out.stat()
    assert out.read_bytes() == right(writing)
    assert stat.S_IMODE(after.st_mode) == mode
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


@pytest.mark.parametrize("mode", [0o444, 0o400, 0o000])
def test_what_is_read_only_is_kept(
    writing: Writing,
    films: Films,
    tmp_path: Path,
    mode: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / f"out{writing.suffix}"
    out.write_text("old")
    out.chmod(mode)
    assert_refused(capsys, writing.arguments(films, out), 1, "is read-only; chmod u+w")
    assert stat.S_IMODE(out.stat().st_mode) == mode
    out.chmod(0o600)
    assert out.read_text() == "old" and names(tmp_path) == [out.name]


def test_a_new_file_has_the_mode_that_the_umask_leaves(
    writing: Writing, films: Films, tmp_path: Path
) -> None:
    out = tmp_path / f"out{writing.suffix}"
    before = os.umask(0o027)
    try:
        assert main(writing.arguments(films, out)) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == 0o640


# Pipes and devices


class Reader(threading.Thread):
    """Reads a pipe to its end, after a while."""

    def __init__(self, path: Path, after: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.path, self.after, self.data = path, after, b""
        self.start()

    def run(self) -> None:
        time.sleep(self.after)
        self.data = self.path.read_bytes()


@pytest.mark.parametrize("after", [0.0, 1.5], ids=["reader waits", "reader comes late"])
def test_a_pipe_gets_the_bytes_and_stays(
    writing: Writing,
    films: Films,
    right: Callable[[Writing], bytes],
    tmp_path: Path,
    after: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted = right(writing)
    pipe = tmp_path / f"pipe{writing.suffix}"
    os.mkfifo(pipe)
    reader = Reader(pipe, after)
    assert main(writing.arguments(films, pipe)) == 0
    reader.join(20)
    assert reader.data == wanted
    assert pipe.is_fifo() and names(tmp_path) == [pipe.name]


def test_a_pipe_that_nobody_reads_is_waited_for_with_a_word(films: Films, tmp_path: Path) -> None:
    for writing in (WRITINGS["encode-webm"], WRITINGS["decode"]):
        pipe = tmp_path / f"pipe{writing.suffix}"
        os.mkfifo(pipe)
        command = [*COMMAND, *writing.arguments(films, pipe)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert "is a pipe that nobody reads yet" in process.stderr.readline()
            reader = Reader(pipe)
            assert process.wait(60) == 0
        reader.join(20)
        assert reader.data


def test_a_reader_that_leaves_is_told_of(
    tmp_path: Path, films: Films, capsys: pytest.CaptureFixture[str]
) -> None:
    big = tmp_path / "big.y4m"  # more than a pipe holds
    grey = Image(*(np.full(size, 9, np.uint8) for size in ((96, 128), (48, 64), (48, 64))))
    with Y4mWriter(big, 128, 96, Fraction(25)) as writer:
        for _ in range(30):
            writer.write(grey)
    assert main(["encode", str(big), "-o", str(tmp_path / "big.ivf"), *FAST.split()]) == 0
    pipe = tmp_path / "pipe.y4m"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: pipe.open("rb", 0).read(10), daemon=True)
    reader.start()
    arguments = ["decode", str(tmp_path / "big.ivf"), "-o", str(pipe)]
    assert main(arguments) == 1  # having waited for the reader, perhaps
    assert capsys.readouterr().err.endswith("pipe.y4m: nobody reads it any more\n")
    piped = f"{' '.join(map(repr, COMMAND))} decode {tmp_path}/big.ivf -o - 2>said | head -c 9; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout) == (141, b"YUV4MPEG2")
    assert (tmp_path / "said").read_text() == ""


def test_devices_are_written_to(
    writing: Writing, films: Films, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for device in ("null", "full"):
        (tmp_path / f"{device}{writing.suffix}").symlink_to(f"/dev/{device}")
    assert main(writing.arguments(films, tmp_path / f"null{writing.suffix}")) == 0
    full = writing.arguments(films, tmp_path / f"full{writing.suffix}")
    assert_refused(capsys, full, 1, "no space left on device")
    for device in ("null", "full"):
        assert Path("/dev", device).is_char_device()
        assert (tmp_path / f"{device}{writing.suffix}").is_symlink()


@pytest.mark.parametrize("name", ["decode", "first-pass"])
def test_descriptors_of_the_shell(
    name: str, films: Films, right: Callable[[Writing], bytes], tmp_path: Path
) -> None:
    """What lies behind them stays where it is, and what was written before stays before."""
    writing = WRITINGS[name]
    with (tmp_path / "log").open("wb") as file:
        file.write(b"before")
        file.flush()
        arguments = writing._replace(asks=False).arguments(films, f"/dev/fd/{file.fileno()}")
        subprocess.run([*COMMAND, *arguments], pass_fds=[file.fileno()], check=True)
    assert (tmp_path / "log").read_bytes() == b"before" + right(writing)
    for out in ("-", "/dev/stdout"):
        arguments = writing._replace(asks=False).arguments(films, out)
        done = subprocess.run([*COMMAND, *arguments], stdout=subprocess.PIPE, check=True)
        assert done.stdout == right(writing)


def test_a_descriptor_that_is_not_open(films: Films, capsys: pytest.CaptureFixture[str]) -> None:
    with open(os.devnull, "rb") as file:
        out = f"/dev/fd/{file.fileno()}"
        assert_refused(capsys, ["decode", str(films.webm), "-o", out], 1, "not open for writing")
    assert_refused(capsys, ["decode", str(films.webm), "-o", out], 1, "is closed")


# Links


def test_links(
    writing: Writing,
    films: Films,
    right: Callable[[Writing], bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    end = writing.suffix
    (tmp_path / "disk").mkdir()
    for name, target in {
        f"a{end}": f"b{end}",
        f"b{end}": f"a{end}",
        f"dangling{end}": "disk/real",
        f"folder{end}": "disk",
        f"lost{end}": "nowhere/real",
    }.items():
        (tmp_path / name).symlink_to(target)
    before = names(tmp_path)
    for name, word in {
        "a": "loop of symbolic links",
        f"a{end}/x": "loop of symbolic links",
        "folder": "is a folder",
        "lost": "nowhere does not exist",
    }.items():
        assert_refused(capsys, writing.arguments(films, tmp_path / f"{name}{end}"), 1, word)
    assert main(writing.arguments(films, tmp_path / f"dangling{end}")) == 0
    assert (tmp_path / f"dangling{end}").is_symlink()
    assert (tmp_path / "disk" / "real").read_bytes() == right(writing)
    assert names(tmp_path) == before and names(tmp_path / "disk") == ["real"]


@pytest.mark.parametrize(
    "line",
    [
        "encode {out} -o x.webm",
        "plan {out}",
        "decode {out} --md5",
        "info {out}",
        "compare {out} {out}",
        "demo {out}",
        "bench rd {out}",
        "step first-pass {out} -o x.ivf",
        "step enc {clip} -y 9 -I {out} -o x.ivf",
        "step dump {out} x.state",
        "step diff {out} {out}",
        "encode {clip} -o x.webm --executor sync --keep {out}",
    ],
)
def test_inputs_and_folders_that_are_loops_or_too_long(
    line: str, refused: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name, word in {"loop": "", "a" * 256: "too long"}.items():
        refused(line, name, 1, word)
    assert names(tmp_path) == ["loop"]


@pytest.mark.parametrize("line", ["decode {out} --md5", "info {out}", "plan {out}"])
def test_a_pipe_is_no_input(
    line: str, films: Films, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe.ivf")
    arguments = Writing(line, "").arguments(films, tmp_path / "pipe.ivf")
    assert_refused(capsys, arguments, 1, "not a regular file, cannot be read at random")


def test_the_demo_into_a_pipe(films: Films, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ivf")
    reader = Reader(tmp_path / "pipe.ivf")
    line = f"demo {films.clip} -o {tmp_path}/pipe.ivf --executor sync -N 4 -x 1 --limit 6"
    assert main(line.split()) == 0
    reader.join(20)
    assert reader.data.startswith(b"DKIF")


def test_outputs_that_are_inputs_or_each_other(
    films: Films, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linked = tmp_path / "linked.webm"
    os.link(films.webm, linked)
    (tmp_path / "linked.y4m").symlink_to(linked)
    before = films.webm.read_bytes()
    for line in (
        f"encode {films.webm} -o {linked} -y",
        f"decode {films.webm} -o {tmp_path}/linked.y4m -y",
        f"demo {films.webm} -o {linked}",
    ):
        assert_refused(capsys, line.split(), 1, "is the input itself")
    twice = f"step first-pass {films.clip} -o {tmp_path}/a.ivf -O {tmp_path}/a.ivf"
    assert_refused(capsys, twice.split(), 1, "two outputs at once")
    assert films.webm.read_bytes() == before


# Standard streams


SHUT = {
    "stdout closed": ">&-",
    "stderr closed": "2>&-",
    "all closed": "<&- >&- 2>&-",
    "stdout full": ">/dev/full",
    "stderr full": "2>/dev/full",
}


@pytest.mark.parametrize("shut", SHUT.values(), ids=SHUT)
def test_closed_and_full_streams(
    shut: str, films: Films, right: Callable[[Writing], bytes], tmp_path: Path
) -> None:
    """The work is done; a result that stdout was to carry is missed, in one line where there is an stderr."""

    def run(line: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", f'exec "$@" {shut}', "sh", *COMMAND, *line.split()]
        return subprocess.run(
            command, capture_output=True, timeout=100, text=True, errors="replace"
        )

    no_stdout, no_stderr = ">" in shut.replace("2>", ""), "2>" in shut
    encoded = run(f"encode {films.clip} -o {tmp_path}/out.webm --json {FAST}")
    assert (tmp_path / "out.webm").read_bytes() == right(WRITINGS["encode-webm"])
    decoded = run(f"decode {films.webm} -o {tmp_path}/out.y4m")
    assert (tmp_path / "out.y4m").read_bytes() == right(WRITINGS["decode"])
    assert decoded.returncode == 0, decoded.stderr
    for done in (encoded, run(f"info {films.webm}"), run(f"decode {films.webm} -o -")):
        assert done.returncode == no_stdout, done.stderr
        if no_stderr:
            assert not done.stderr
        elif no_stdout:
            (line,) = done.stderr.splitlines()
            assert line.startswith("excamera: ") and ("standard output" in line or "stdout" in line)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_stdout_is_named(unbuffered: str, films: Films) -> None:
    for line in (f"info {films.webm}", "--help"):
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" >/dev/full', "sh", *COMMAND, *line.split()],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stderr=subprocess.PIPE,
            text=True,
        )
        said = "excamera: standard output: cannot be written (no space left on device)\n"
        assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.slow
def test_the_figures_of_bench(films: Films, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    stem = "日" * 83
    for name in ("out", stem):
        out, plot = tmp_path / f"{name}.json", tmp_path / f"{name}.png"
        out.touch(0o600)
        line = f"bench rd {films.clip} --cq-levels 20,40 --methods 6,1 --executor sync --first-pass libvpx"
        assert main([*line.split(), "-o", str(out), "--plot", str(plot)]) == 0
        assert out.read_bytes().startswith(b"{") and plot.read_bytes().startswith(b"\x89PNG")
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
