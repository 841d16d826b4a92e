"""What a failure means to the user of the command: an exit code and one line."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import traceback
from types import FrameType

import click

from excamera_dask.cli.terminal.printing import printable
from excamera_dask.errors import InstallationError, InvalidSetting
from excamera_dask.installation import check_files, is_of_packages
from excamera_dask.storage.errors import StdoutClosed, reason_of

FAILED = 1
USAGE = 2
INTERNAL = 70
INTERRUPTED = 130


class Failure(click.ClickException):
    """An expected failure; its message is the one line that the user reads."""

    exit_code = FAILED


def terminate_like_interrupt() -> None:
    """Let SIGTERM unwind as Ctrl-C does, so that temporary files and workers go away with us."""

    def unwind(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, unwind)


def end_undisturbed() -> None:
    """Let no further SIGTERM or Ctrl-C take the exit code from a process that is ending for the first."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def keep_interrupts() -> None:
    """Have an interrupt come again that falls into a finalizer or a weak reference's callback: what is raised there is lost."""
    usual = sys.unraisablehook

    def look(lost: sys.UnraisableHookArgs) -> None:
        if lost.exc_type is not KeyboardInterrupt:
            usual(lost)
            return
        main = threading.main_thread().ident or 0
        again = threading.Timer(0.01, signal.pthread_kill, (main, signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = look


def explain(error: BaseException) -> tuple[int, str]:
    """(exit code, one line) for whatever ended a command; the line is empty where none is due."""
    if os.environ.get("EXCAMERA_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, StdoutClosed):  # by a reader such as head: say nothing, as other tools do
        return 128 + signal.SIGPIPE, ""
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return INTERRUPTED, "interrupted"
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)  # a group without a command: its whole help
        return USAGE, ""
    if isinstance(error, click.UsageError):
        return USAGE, _usage_line(error)
    if isinstance(error, InvalidSetting) or _is_wrong_use(error):
        return USAGE, _words(error)
    if isinstance(error, click.ClickException):
        return error.exit_code, _one_line(error.format_message())
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED, ""
    if isinstance(error, OSError) and not is_of_packages(error.filename):
        return FAILED, _os_error_line(error)
    if isinstance(error, MemoryError) or _is_unmapped(error):
        return (
            FAILED,
            "out of memory; use fewer workers (--workers) or smaller chunks, or raise `ulimit -v`",
        )
    if _is_expected(error):
        return FAILED, _words(error)
    if _came_of_an_interrupt(error):
        return INTERRUPTED, "interrupted"
    try:
        check_files()
    except InstallationError as cause:
        return FAILED, _one_line(str(cause))
    return INTERNAL, _one_line(
        f"internal error: {type(error).__name__}: {error} (EXCAMERA_DEBUG=1 shows where; please report it)"
    )


def _is_wrong_use(error: BaseException) -> bool:
    """Whether an executor refuses what was asked for; it is loaded then, and else need not be."""
    executors = sys.modules.get("executors.base")
    return executors is not None and isinstance(error, executors.WrongUse)


def _came_of_an_interrupt(error: BaseException) -> bool:
    """Whether it was raised on the way out: a lock that an interrupt took from its holder cannot be released, for one."""
    before = error.__context__
    return isinstance(before, KeyboardInterrupt) or (
        before is not None and _came_of_an_interrupt(before)
    )


def _is_unmapped(error: BaseException) -> bool:
    """Whether a shared library found no room in the address space."""
    return isinstance(error, ImportError) and "failed to map segment" in str(error)


def _is_expected(error: BaseException) -> bool:
    """True for the typed errors of our own packages, which are written to be read by a user."""
    return any(
        kind.__module__.partition(".")[0] in ("codec", "executors", "excamera_dask")
        for kind in type(error).__mro__
    )


def _usage_line(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "excamera"
    return _one_line(f"{error.format_message()} (see: {command} --help)")


def _os_error_line(error: OSError) -> str:
    if error.filename is None:
        return _words(error)
    return _one_line(f"{os.fspath(error.filename)}: {reason_of(error)}")


def _words(error: BaseException) -> str:
    """What an error says, or what it is where that is nothing."""
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    return printable(re.sub(r"\s*\n\s*", " ", text.strip()))
