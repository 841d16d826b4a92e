"""The command as a user meets it: help, one-line errors, exit codes, and results that agree with libvpx."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import click
import numpy as np
import pytest
from click.testing import CliRunner

from codec.frame import Image
from excamera_dask.cli import cli, main
from excamera_dask.cli.options.libvpx import OPTIONS
from excamera_dask.cli.options.values import BatchChunks, CqLevels, Executor, Methods, Number, Times
from excamera_dask.cli.terminal.display import Estimate, clock, fraction_done
from excamera_dask.cli.terminal.failures import explain
from excamera_dask.cli.terminal.output import as_json
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.measuring.rd_curves import Point
from executors import Counts

COMMAND = [sys.executable, "-c", "import sys; from excamera_dask.cli import main; sys.exit(main())"]


def excamera(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    command = [*COMMAND, *map(str, arguments)]
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(command, capture_output=True, text=True, timeout=280, **options)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small clip of 14 frames with motion, 64x48, as Y4M."""
    path = tmp_path_factory.mktemp("clip") / "clip.y4m"
    rng = np.random.default_rng(5)
    scene = rng.integers(0, 255, (10, 14), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    grain = rng.integers(-6, 6, scene.shape)
    scene = np.clip(scene.astype(int) + grain, 0, 255).astype(np.uint8)
    with Y4mWriter(path, 64, 48, Fraction(25)) as writer:
        for number in range(14):
            y = np.ascontiguousarray(scene[number : number + 48, 2 * number : 2 * number + 64])
            writer.write(Image(y, y[::2, ::2].copy(), 255 - y[::2, ::2]))
    return path


@pytest.fixture(scope="module")
def encoded(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip by [4, 2]."""
    path = tmp_path_factory.mktemp("encoded") / "out.webm"
    done = excamera(
        "encode", clip, "-o", path, "-N", 4, "-x", 2, "--executor", "sync", "--first-pass", "libvpx"
    )
    assert done.returncode == 0, done.stderr
    return path


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    main(["cluster"])
    told = "".join(capsys.readouterr())
    assert told.startswith("Usage: excamera cluster [OPTIONS] COMMAND")
    assert len(told.splitlines()) > 10


def commands() -> list[list[str]]:
    """The names of all commands, nested ones too."""

    def walk(group: click.Group, prefix: list[str]) -> list[list[str]]:
        found = []
        for name, command in group.commands.items():
            found.append([*prefix, name])
            if isinstance(command, click.Group):
                found += walk(command, [*prefix, name])
        return found

    return walk(cli, [])


@pytest.mark.parametrize("command", [[], *commands()], ids=" ".join)
def test_each_command_has_help_with_its_options_told(command: list[str]) -> None:
    result = CliRunner().invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output
    target: click.Command = cli
    for name in command:
        assert isinstance(target, click.Group)
        target = target.commands[name]
    assert all(p.help for p in target.params if isinstance(p, click.Option))


@pytest.mark.parametrize("command", [[], ["step"], ["bench"]])
def test_a_group_alone_shows_its_help_as_it_is_laid_out(command: list[str]) -> None:
    done = excamera(*command)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("Usage: excamera") and done.stderr.count("\n") > 5


def test_help_comes_without_the_heavy_imports() -> None:
    code = (
        "import sys; from excamera_dask.cli import main; main(['encode', '--help']);"
        "print([m for m in ('numba', 'dask', 'distributed', 'av', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_options_have_the_defaults_of_the_settings() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(FirstPassSettings)}
    told = {name.replace("-", "_"): default for name, _, default, _ in OPTIONS}
    assert told == {k: v for k, v in defaults.items() if k not in ("encoder", "cq_level", "extra")}


# Bad input: one line, a code, nothing left behind


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("excamera: ")
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture
def bad(tmp_path: Path) -> SimpleNamespace:
    """Inputs that are no video."""
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("Dear diary, " * 200)
    (tmp_path / "random.webm").write_bytes(np.random.default_rng(1).bytes(5000))
    (tmp_path / "header.y4m").write_bytes(b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420jpeg\n")
    (tmp_path / "folder").mkdir()
    names = {p.stem: p for p in tmp_path.iterdir()}
    return SimpleNamespace(**names, missing=tmp_path / "missing.mp4", all=names)


@pytest.mark.parametrize("name", ["missing", "empty", "text", "random", "header", "folder"])
def test_encode_refuses_what_is_no_video(name: str, bad: SimpleNamespace, tmp_path: Path) -> None:
    source = getattr(bad, name)
    before = sorted(tmp_path.iterdir())
    done = excamera("encode", source, "-o", tmp_path / "out.webm", "--executor", "sync")
    assert_one_line(done, 1, str(source))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["missing", "empty", "text", "random", "folder"])
@pytest.mark.parametrize("command", [["decode", "--md5"], ["info"]], ids=["decode", "info"])
def test_decode_and_info_refuse_what_is_no_vp8(
    command: list[str], name: str, bad: SimpleNamespace
) -> None:
    assert_one_line(excamera(*command, getattr(bad, name)), 1, str(getattr(bad, name)))


def test_compare_refuses_other_sizes(clip: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.y4m"
    flat = np.zeros((32, 32), np.uint8)
    with Y4mWriter(other, 32, 32, Fraction(25)) as writer:
        writer.write(Image(flat, flat[::2, ::2], flat[::2, ::2]))
    assert_one_line(excamera("compare", clip, other), 1, "32x32", "64x48")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--cq-level", "64"], "64"),
        (["--chunk-frames", "0"], "chunk-frames"),
        (["--batch-chunks", "none"], "none"),
        (["--executor", "cloud"], "cloud"),
        (["--force-key-frames", "1:xx"], "1:xx"),
        (["--force-key-frames", "1:99:99"], "1:99:99"),
        (["--tune", "beauty"], "beauty"),
        (["--min-q", "50", "--max-q", "20"], "above max_q"),
        (["--kf-q-weight", "nan"], "nan"),
        (["--nonsense"], "nonsense"),
        (["--executor", "sync", "--workers", "9"], "one worker"),
        (["--executor", "http://localhost:1"], "address scheme"),
        (["--executor", "tcp://localhost:99999"], "65535"),
        (["--executor", "lambda", "--backend", "cloudy"], "cloudy"),
        (["--executor", "lambda", "--backend", "local", "--idle-timeout", "nan"], "nan"),
    ],
)
def test_wrong_flags_are_wrong_usage(
    arguments: list[str], word: str, clip: Path, tmp_path: Path
) -> None:
    assert_one_line(excamera("encode", clip, "-o", tmp_path / "a.webm", *arguments), 2, word)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("output", ["nowhere/out.webm", "folder.webm"])
def test_outputs_that_cannot_be_are_refused_first(output: str, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.webm").mkdir()
    assert_one_line(excamera("encode", clip, "-o", tmp_path / output), 1, output)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.webm"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(clip: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert_one_line(excamera("encode", clip, "-o", tmp_path / "out.webm"), 1, "permission")


@pytest.mark.parametrize("flags", [["-n"], []], ids=["-n", "neither"])
def test_an_existing_output_is_kept(flags: list[str], clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.webm"
    output.write_text("precious")
    assert_one_line(excamera("encode", clip, "-o", output, *flags), 1, "-y")
    assert output.read_text() == "precious"


def test_the_input_is_never_the_output(clip: Path, tmp_path: Path) -> None:
    same = tmp_path / "same.ivf"
    same.symlink_to(clip)
    assert_one_line(excamera("encode", clip, "-o", same, "-y"), 1, "input")


def test_measuring_never_replaces_its_input(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(clip)
    before = clip.read_bytes()
    for command in (
        ("bench", "rd", clip, "--plot", tmp_path / "link.png"),
        ("step", "first-pass", clip, "-o", tmp_path / "o.ivf", "-O", clip),
        ("step", "dump", clip, clip),
    ):
        assert_one_line(excamera(*command), 1, "is the input itself")
    assert clip.read_bytes() == before


def test_an_unreachable_scheduler_is_one_line(clip: Path, tmp_path: Path) -> None:
    done = excamera(
        "encode", clip, "-o", tmp_path / "a.webm", "-x", 1, "--executor", "tcp://127.0.0.1:9"
    )
    assert_one_line(done, 1, "tcp://127.0.0.1:9")
    assert not any(tmp_path.iterdir())


def test_our_own_bug_has_its_own_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(sys.modules["excamera_dask.cli.doctor"], "examine", broken)
    assert main(["doctor"]) == 70
    assert "internal error: ZeroDivisionError: oops" in capsys.readouterr().err


# Work that is done


def test_encode_tells_its_result_as_json(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.ivf"
    done = excamera(
        "encode", clip, "-o", output, "-N", 4, "-x", 1, "--executor", "sync", "--json", "--limit", 9
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["frames"], report["key_frames"], report["chunks"]) == (9, 3, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["out.ivf"]


def test_progress_as_json_lines(clip: Path, tmp_path: Path) -> None:
    done = excamera(
        "encode",
        clip,
        "-o",
        tmp_path / "o.ivf",
        "-x",
        1,
        "--executor",
        "sync",
        "--progress",
        "json",
    )
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert events[0]["event"] == "Started"
    done_events = [event for event in events if event["event"] == "ChunkDone"]
    assert done_events[-1]["frames_done"] == 14


def test_encode_has_one_key_frame_a_batch_and_plays_in_libvpx(encoded: Path, clip: Path) -> None:
    info = json.loads(excamera("info", encoded).stdout)
    keys = [f["frame"] for f in info["frames"] if f["type"] == "key"]
    assert keys == [0, 8]
    assert info["frame_count"] == 14
    compared = json.loads(excamera("compare", clip, encoded).stdout)
    assert compared["overall"]["frames"] == 14
    assert compared["overall"]["psnr"]["y"] > 30


def libvpx_md5(path: Path) -> str:
    """MD5 of all pictures as libvpx inside PyAV shows them."""
    digest = hashlib.md5()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoder = av.CodecContext.create("libvpx", "r")
        decoder.width, decoder.height = stream.width, stream.height
        for packet in container.demux(stream):
            for frame in decoder.decode(packet if packet.size else None):
                for plane in frame.planes:
                    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
                    digest.update(rows[: plane.height, : plane.width].tobytes())
    return digest.hexdigest()


def test_md5_equals_that_of_libvpx(encoded: Path) -> None:
    assert excamera("decode", encoded, "--md5").stdout.split()[0] == libvpx_md5(encoded)


@pytest.mark.vpx
def test_md5_equals_that_of_vpxdec(encoded: Path, vpxdec: str) -> None:
    theirs = subprocess.run([vpxdec, "--i420", "--md5", encoded], capture_output=True, text=True)
    ours = excamera("decode", encoded, "--md5")
    assert ours.stdout.split()[0] == theirs.stdout.split()[0]


@pytest.mark.shared
@pytest.mark.parametrize("number", ["001", "008", "017"])
def test_md5_of_the_official_vectors(number: str, shared: Path) -> None:
    vector = next((shared / "vp8" / "vectors").glob(f"*{number}.ivf"))
    done = excamera("decode", vector, "--md5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == libvpx_md5(vector)


def test_decode_writes_y4m_of_the_same_pictures(encoded: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.y4m"
    assert excamera("decode", encoded, "-o", output).returncode == 0
    compared = json.loads(excamera("compare", encoded, output, "--overall").stdout)
    assert compared["overall"]["psnr"]["all"] is None  # identical
    assert compared["overall"]["frames"] == 14
    assert b"F25:1" in output.read_bytes()[:80]
    to_stdout = subprocess.run([*COMMAND, "decode", str(encoded), "-o", "-"], capture_output=True)
    assert to_stdout.stdout == output.read_bytes()


def test_info_tells_of_macroblocks(encoded: Path) -> None:
    info = json.loads(excamera("info", encoded, "--macroblocks", "--skip", 1, "--limit", 1).stdout)
    (frame,) = info["frames"]
    assert frame["type"] == "inter" and 0 <= frame["q"] <= 127
    assert np.shape(frame["grid"]["y_mode"]) == (3, 4)
    assert np.shape(frame["grid"]["vector"]) == (3, 4, 2)


def test_the_single_steps_make_a_chain_that_plays(clip: Path, tmp_path: Path) -> None:
    def step(*arguments: str | Path | int) -> None:
        done = excamera("step", *map(str, arguments), cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    for chunk in range(3):
        step("first-pass", clip, "-o", f"{chunk}.ivf", "--skip", 4 * chunk, "--limit", 4)
        step("dump", f"{chunk}.ivf", f"{chunk}.state")
    for chunk in (1, 2):  # replace the key frame against the first-pass state of the chunk before
        step("enc", clip, "--skip", 4 * chunk, "--limit", 4, "-r", "-I", f"{chunk - 1}.state",
             "-p", f"{chunk}.ivf", "-w", 0.75, "-o", f"{chunk}r.ivf", "-O", f"{chunk}r.state")  # fmt: skip
    step("enc", clip, "--skip", 8, "--limit", 4, "-r", "-I", "1r.state", "-p", "2r.ivf",
         "-S", "1.state", "-o", "2t.ivf", "-O", "2t.state")  # fmt: skip
    step("dump", "1r.ivf", "again.state", "--input-state", "0.state")
    step("diff", "again.state", "1r.state")
    step("dump", "2t.ivf", "again.state", "--input-state", "1r.state")
    step("diff", "again.state", "2t.state")
    assert excamera("step", "diff", "0.state", "2t.state", cwd=tmp_path).returncode == 1


def test_a_damaged_state_is_refused(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.state").write_bytes(b"not a state at all, but long enough to look at" * 4)
    done = excamera(
        "step", "enc", clip, "-y", 40, "-I", tmp_path / "bad.state", "-o", tmp_path / "o.ivf"
    )
    assert_one_line(done, 1, "bad.state")


@pytest.mark.slow
def test_bench_rd_gives_points_rates_and_a_plot(clip: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    other = tmp_path / "other.y4m"
    other.write_bytes(clip.read_bytes())
    done = excamera(
        "bench", "rd", clip, other, "--cq-levels", "20,40", "--limit", 12, "--executor", "sync",
        "--methods", "balanced balanced:4 6,1", "--plot", tmp_path / "rd.png", "-o", tmp_path / "rd.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads((tmp_path / "rd.json").read_text())
    methods = {"balanced", "balanced:4", "[6,1]"}
    first, second = result["clips"]
    assert {p["method"] for p in first["points"]} == {"vpxenc", "vpxenc --min-q", *methods}
    assert len(first["points"]) == 10
    assert set(first["bd_rate_percent"]) == set(result["mean_bd_rate_percent"]) == methods
    assert first["bd_rate_percent"] == second["bd_rate_percent"]
    assert (tmp_path / "rd.png").read_bytes().startswith(b"\x89PNG")
    refused = excamera("bench", "rd", clip, "--methods", "6,0")
    assert_one_line(refused, 2, "6,0")


def test_the_demo_prints_its_table(clip: Path) -> None:
    done = excamera("demo", clip, "-w", 1, "--json")
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert table["excamera"]["frames"] == table["libvpx, 1 thread"]["frames"] == 14


def test_doctor_finds_this_machine_fit() -> None:
    done = excamera("doctor", "--json")
    assert done.returncode == 0, done.stderr
    findings = json.loads(done.stdout)
    assert findings["errors"] == []
    assert findings["cores"] >= 1 and findings["packages"]["numba"]


def test_what_fails_because_of_an_interrupt_is_one() -> None:
    """As where it comes within `threading.Condition.wait`, which then holds no lock to be released."""
    lock = threading.Lock()
    with pytest.raises(RuntimeError) as caught, lock:
        lock.release()
        raise KeyboardInterrupt
    assert explain(caught.value) == (130, "interrupted")
    assert explain(RuntimeError("of its own"))[0] == 70


@pytest.mark.parametrize("stop, again", [("SIGINT", 0), ("SIGTERM", 0), ("SIGTERM", 0.3)])
def test_an_interrupt_is_one_line_and_leaves_no_output(
    stop: str, again: float, clip: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.webm"
    arguments = ["encode", clip, "-o", output, "-N", 1, "-w", 1, "--progress", "json"]
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if '"Started"' in line:
                break
        time.sleep(0.1)
        process.send_signal(signal.Signals[stop])
        if again:
            time.sleep(again)
            process.send_signal(signal.Signals[stop])
        lines += process.stderr.readlines()
        code = process.wait(60)
    if code == 0:
        pytest.skip("the job was faster than the interrupt")
    assert code == 130, lines
    assert "Traceback" not in "".join(lines)
    assert "interrupted" in lines[-1]
    assert not output.exists()
    assert not list(tmp_path.glob(".*.part"))


def test_waiting_for_a_scheduler_can_be_interrupted(clip: Path, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        arguments = ["encode", clip, "-o", tmp_path / "out.webm", "--executor", address]
        with subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True
        ) as process:
            time.sleep(4)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert process.returncode in (130, 1), said  # 1 where it had come to its own end by then
    assert "Traceback" not in said and len(said.split("\n")) <= 3
    assert time.monotonic() - began < 15  # a Client that still tries keeps the end for 20 s


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.4, 0.7, 1.0, 1.4, 2.0])
def test_ctrl_c_on_a_terminal_is_one_line_at_any_moment(seconds: float, tmp_path: Path) -> None:
    """A terminal sends it to all processes: to client, workers, encoders and whatever is just starting."""
    source, output = tmp_path / "long.y4m", tmp_path / "out.webm"
    grey = Image(*(np.full(size, 90, np.uint8) for size in ((288, 352), (144, 176), (144, 176))))
    with Y4mWriter(source, 352, 288, Fraction(25)) as writer:
        for _ in range(600):
            writer.write(grey)
    arguments = [*COMMAND, "encode", str(source), "-o", str(output), "--progress", "none"]
    with subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.strip() == "excamera: interrupted"
    assert not output.exists()


def test_an_interrupt_that_python_drops_comes_again() -> None:
    """What is raised in a weak reference's callback, as those of Python's own import locks, goes nowhere."""
    code = (
        "import time, weakref\n"
        "from excamera_dask.cli.terminal.failures import keep_interrupts\n"
        "keep_interrupts()\n"
        "class It: pass\n"
        "def fall(_): raise KeyboardInterrupt\n"
        "it = It()\n"
        "watch = weakref.ref(it, fall)\n"
        "try:\n"
        "    del it\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write")
@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", "{clip}", "-o", "/proc/out.webm"],
        ["bench", "rd", "{clip}", "-o", "/proc/rd.json"],
        ["bench", "rd", "{clip}", "--plot", "/proc/rd.png"],
    ],
)
def test_an_unwritable_folder_is_refused_before_any_work(arguments: list[str], clip: Path) -> None:
    done = excamera(*(argument.format(clip=clip) for argument in arguments))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "cannot write into /proc" in done.stderr


# Values and estimates


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (BatchChunks(), "unlimited", None),
        (BatchChunks(), "3", 3),
        (Times(), "12.5,1:02:03.25,0:30", (12.5, 30.0, 3723.25)),
        (Times(), "90,90:00,1:59:59.9", (90.0, 5400.0, 7199.9)),
        (Executor(), "tls://host:1", "tls://host:1"),
        (CqLevels(), "40,20", (20, 40)),
        (
            Methods(),
            "6,1 [12,unlimited] balanced:8",
            (("paper", 6, 1, None), ("paper", 12, None, None), ("balanced", 8, 16, None)),
        ),
    ],
)
def test_values_are_understood(kind: click.ParamType, text: str, value: object) -> None:
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (BatchChunks(), "0"),
        (Times(), "12:"),
        (Times(), "0:60"),
        (Times(), "1:60:00"),
        (Times(), "1:00:60"),
        (Times(), "-1"),
        (Times(), "nan"),
        (Times(), "9" * 5000),
        (CqLevels(), "20"),
        (CqLevels(), "20,64"),
        (Methods(), "0,1"),
        (Methods(), "balanced:0"),
        (Methods(), "largest"),
        (Executor(), "host:8786"),
        (Number(0, 1), "nan"),
        (Number(min=0), "inf"),
    ],
)
def test_nonsense_is_refused(kind: click.ParamType, text: str) -> None:
    with pytest.raises(click.BadParameter):
        kind.convert(text, None, None)


def test_the_estimate_finds_a_steady_speed_and_follows_a_change() -> None:
    estimate = Estimate()
    assert estimate.seconds_left(0) is None
    for second in range(31):
        estimate.update(second, second / 100)
    assert estimate.seconds_left(30) == pytest.approx(70, rel=0.01)
    for second in range(31, 91):
        estimate.update(second, 0.30 + (second - 30) / 200)
    assert estimate.seconds_left(90) == pytest.approx(80, rel=0.05)


def test_work_is_weighed_by_stage() -> None:
    assert fraction_done({}) == 0
    assert fraction_done({"encode": Counts(10, 0, 10), "load": Counts(10, 0, 0)}) > 0.9
    assert fraction_done({"encode": Counts(4, 0, 4), "mux": Counts(4, 0, 0)}) == 1


def test_clock() -> None:
    assert [clock(s) for s in (0.2, 61, 3661)] == ["0:01", "1:01", "1:01:01"]


def test_what_is_infinite_is_null_in_results() -> None:
    point = Point("[6,16]", 4, 2, 1, 100, 1.0, float("inf"), float("inf"), 0.5)
    told = json.loads(as_json({"points": [point], "count": np.int64(3), "path": Path("a")}))
    assert told["points"][0]["psnr"] is None and told["points"][0]["ssim_db"] is None
    assert told["points"][0]["bytes"] == 100 and told["count"] == 3 and told["path"] == "a"
