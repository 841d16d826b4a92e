"""What may be shown: texts of workers, of files and of errors hold whatever somebody put there, and a terminal obeys some of it.

All that a command prints passes `Escaping`, or a console of `console`; only what rich itself does to a terminal passes as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_UNPRINTABLE = "\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"
_IN_A_LINE = re.compile(f"[{_UNPRINTABLE}\ud800-\udfff]")
_IN_LINES = re.compile(f"(?![\n\t])[{_UNPRINTABLE}]")


def printable(text: str) -> str:
    """A line that may be shown: what a file's name can hold beside characters to be read, is escaped."""
    return _IN_A_LINE.sub(lambda found: _escaped(found[0]), text)


def printable_lines(text: str) -> str:
    """Lines that may be shown; bytes that are no UTF-8 stay what they are."""
    return _IN_LINES.sub(lambda found: _escaped(found[0]), text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode()


class Escaping:
    """A text stream on which control characters are escaped, but for ends of lines and tabs; otherwise `plain` itself."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def write(self, text: str) -> int:
        self.plain.write(printable_lines(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


def console(*, stderr: bool = False, **options: Any) -> Console:
    """A console of rich's on stdout or stderr; what it is given to show is escaped, its own control codes are not."""
    from rich.console import Console
    from rich.segment import Segment

    class Printable(Console):
        def _render_buffer(self, buffer: Iterable[Segment]) -> str:
            shown = (
                each if each.control else Segment(printable_lines(each.text), each.style)
                for each in buffer
            )
            return super()._render_buffer(shown)

    stream = sys.stderr if stderr else sys.stdout
    return Printable(file=getattr(stream, "plain", stream), highlight=False, **options)


def percent(value: float | None) -> str:
    """A difference in percent for a table; empty where there is none."""
    return "" if value is None else f"{value:+.1f} %"
