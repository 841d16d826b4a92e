"""The last lines that a process logged, to be sent along when it fails."""

from __future__ import annotations

import logging
from collections import deque

LINES = 60
LONGEST_LINE = 2000


class LogTail(logging.Handler):
    """Keeps the last `lines` records of the root logger while it is attached (a context manager)."""

    def __init__(self, lines: int = LINES) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._lines: deque[str] = deque(maxlen=lines)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record)[:LONGEST_LINE])
        except Exception:  # a record that cannot be formatted is no reason for a task to fail
            self.handleError(record)

    def text(self) -> str:
        """The lines, oldest first."""
        return "\n".join(self._lines)

    def __enter__(self) -> LogTail:
        logging.getLogger().addHandler(self)
        logging.getLogger("distributed").addHandler(self)
        return self

    def __exit__(self, *raised: object) -> None:
        logging.getLogger().removeHandler(self)
        logging.getLogger("distributed").removeHandler(self)
