"""Nothing that somebody else wrote makes a terminal do something: names of files, errors, what workers say."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from excamera_dask.cli import main
from excamera_dask.cli.terminal.printing import Escaping, console, printable, printable_lines
from executors.aws_lambda.fleet.actions import LogEntry
from executors.aws_lambda.messages import read_message, read_versions
from executors.aws_lambda.post_mortem import PostMortem
from executors.aws_lambda.records.clusters import ClusterFolder
from executors.rendezvous.operations import AT_SCHEDULER, Guard
from executors.rendezvous.protocol.texts import shown

HARM = "a\x1b]0;title\x07\x1b[2J\x9b31m\x08\r\u202e\u2028b"


def is_obeyed(text: str, lines: str = "\n\t") -> bool:
    """Whether a terminal would do more than show it."""
    return any(
        unicodedata.category(each) in ("Cc", "Zl", "Zp") or each in "\u202a\u202b\u202c\u202d\u202e"
        for each in text
        if each not in lines
    )


@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_whatever_it_is_a_terminal_does_not_obey(text: str) -> None:
    for escaped in (printable(text), printable_lines(text), shown(text)):
        assert not is_obeyed(escaped)
    assert not is_obeyed(printable(text), "")
    if not is_obeyed(text) and text.isprintable():
        assert printable(text) == printable_lines(text) == shown(text) == text


def test_streams_escape_what_is_written_and_are_else_as_before() -> None:
    plain = io.StringIO()
    stream: Any = Escaping(plain)
    print(HARM, "one\ttwo", file=stream)
    stream.writelines(["\x1b[1m\n", "three\n"])
    assert plain.getvalue().count("\n") == 3 and not is_obeyed(plain.getvalue())
    assert "\\x1b]0;title\\x07" in plain.getvalue() and "one\ttwo" in plain.getvalue()
    assert stream.isatty() is False


def test_what_rich_shows_is_escaped_and_what_it_does_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rich.table import Table
    from rich.text import Text

    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", Escaping(plain))
    made = console(stderr=True, force_terminal=True, width=60)
    table = Table("name")
    table.add_row(Text(HARM))
    made.print(table)
    made.print(HARM, markup=False, style="yellow")
    made.show_cursor(False)
    written = plain.getvalue()
    assert "\x1b]0;" not in written and "\x1b[2J" not in written and "\\x1b" in written
    assert "\x1b[33m" in written and "\x1b[?25l" in written


def test_a_workers_texts_in_the_logs_of_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EXCAMERA_STATE_DIR", str(tmp_path))
    folder = ClusterFolder.create("film", started=1.0, function=HARM, region=HARM)
    told = {"error": HARM, "log_tail": f"one\n{HARM}", "key": HARM, HARM: HARM}
    folder.write([LogEntry(1.0, "w", 1.0, f"w{HARM}", "ready", "failed", "Failed", told)])
    folder.end(2.0, HARM)
    for command in (
        ["cluster", "logs", "film"],
        ["cluster", "list"],
        ["cluster", "timeline", "film"],
    ):
        assert main(command) == 0
        told = capsys.readouterr()
        assert not is_obeyed(told.out + told.err), command
    assert main(["cluster", "logs", "film"]) == 0
    assert r"\x1b]0;title" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", HARM], ["encode", HARM, "-o", f"{HARM}.webm"], ["encode", "x", "-o", HARM], [HARM], [f"--{HARM}"],
        ["cluster", "logs", HARM], ["compare", HARM, HARM], ["encode", "x", "-o", "x.webm", "--executor", HARM],
        ["rendezvous", "--limit", HARM], ["rendezvous", "--metrics", HARM], ["plan", f"s3://{HARM}/x"],
    ],
)  # fmt: skip
def test_failures_are_shown_escaped(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) != 0
    told = capsys.readouterr()
    assert told.err and not is_obeyed(told.out + told.err)


def test_a_traceback_is_escaped_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "excamera_dask.cli", "info", "a\x1b[2Jb"]
        environment = {**os.environ, "EXCAMERA_DEBUG": "1", "PYTHONIOENCODING": "ascii"}
        done = subprocess.Popen(
            command, stdout=theirs, stderr=theirs, env=environment, cwd=Path(__file__).parents[1]
        )
        os.close(theirs)
        told = b""
        with open(ours, "rb", closefd=False, buffering=0) as terminal:
            try:
                while part := terminal.read(65536):
                    told += part
            except OSError:  # how Linux says that the other end has closed it
                pass
        assert done.wait() == 1
    finally:
        os.close(ours)
    assert b"Traceback" in told and b"\\x1b[2J" in told and b"\x1b" not in told


def test_what_workers_say_is_read_escaped() -> None:
    failed = {"op": "failed", "error": HARM, "log_tail": f"x\n{HARM}"}
    event: Any = read_message(failed, "w", 1.0)
    assert not is_obeyed(event.error) and not is_obeyed(event.log_tail)
    running: Any = read_message(
        {"op": "running", "key": HARM, "stage": HARM, "number": 1}, "w", 1.0
    )
    assert not is_obeyed(running.key + running.stage)
    assert not is_obeyed("".join(read_versions({"versions": {HARM: HARM}}).popitem()))


def test_what_tasks_print_at_the_client_is_escaped() -> None:
    guard = Guard(AT_SCHEDULER, "rdv://relay:1/w", "w")
    registering = {"op": "register-worker", "address": "rdv://relay:1/w", "name": "w"}
    assert guard.refusal(registering) is None
    said = {"op": "log-event", "topic": "print", "msg": {"args": (HARM, 7), "sep": HARM}}
    assert guard.refusal([said]) is None
    assert not is_obeyed(said["msg"]["args"][0] + said["msg"]["sep"])  # type: ignore[index]
    assert said["msg"]["args"][1] == 7  # type: ignore[index]


def test_what_lambdas_logs_tell_of_a_worker_is_read_escaped() -> None:
    class Logs:
        def get_log_events(self, **_: Any) -> Any:
            report = "REPORT RequestId: r\tBilled Duration: 7 ms\tMemory Size: 128 MB\tMax Memory Used: 7 MB"
            lines = ["START RequestId: r", f"an error: {HARM}", report]
            return {"events": [{"message": line} for line in lines]}

    cause = PostMortem(Logs(), "f").cause("s", "r")
    assert cause is not None and cause.billed == 0.007
    assert not is_obeyed(cause.error + cause.log_tail)
