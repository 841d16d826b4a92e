"""Why an invocation ended that did not say so itself: what Lambda wrote into its log."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from executors.rendezvous.protocol.texts import shown

LINES = 40
REPORT = re.compile(
    r"REPORT RequestId: (?P<id>\S+).*?Billed Duration: (?P<billed>[\d.]+) ms.*?Memory Size: (?P<size>\d+) MB"
    r".*?Max Memory Used: (?P<used>\d+) MB",
    re.S,
)
TIMED_OUT = re.compile(r"Task timed out after [\d.]+ seconds")
START = re.compile(r"^START RequestId: (?P<id>\S+)", re.M)
NEARLY_ALL = 0.97


class Cause(NamedTuple):
    """One line, the last lines of the log, and the seconds that are billed if Lambda says so."""

    error: str
    log_tail: str
    billed: float | None


class PostMortem:
    """Reads a function's log streams by a boto3 client of CloudWatch Logs, or of what stands for it."""

    def __init__(self, logs: Any, function_name: str) -> None:
        self._logs = logs
        self._group = f"/aws/lambda/{function_name}"

    def cause(self, log_stream: str, request_id: str) -> Cause | None:
        """Why this request ended; None where the log does not tell, yet or at all."""
        try:
            answer = self._logs.get_log_events(
                logGroupName=self._group, logStreamName=log_stream, limit=LINES, startFromHead=False
            )
        # no right to read logs, no such stream, no network: nothing is known then
        except Exception:
            return None
        text = "\n".join(event["message"].rstrip() for event in answer["events"])
        return judge(shown(text), request_id)


def judge(text: str, request_id: str) -> Cause | None:
    """What the lines of a log say of how a request ended; an environment's log tells of others before and after it."""
    text = _part_of(text, request_id)
    report = next((found for found in REPORT.finditer(text) if found["id"] == request_id), None)
    if report is None:
        return None
    billed = float(report["billed"]) / 1000
    used, size = int(report["used"]), int(report["size"])
    timed_out = TIMED_OUT.search(text)
    if timed_out is not None:
        error = f"Lambda ended it: {timed_out[0].lower()}"
    elif used >= NEARLY_ALL * size:
        error = f"out of memory: Lambda killed it at {used} of {size} MB"
    else:
        lines = [line for line in text.splitlines() if "error" in line.lower()]
        error = f"the runtime ended: {lines[-1].strip()}" if lines else "the runtime ended"
    return Cause(error, text, billed)


def _part_of(text: str, request_id: str) -> str:
    """From the request's first line to that of the next one; what comes before all first lines is of the first request."""
    starts = [(found.start(), found["id"]) for found in START.finditer(text)]
    own = next((at for at, found in starts if found == request_id), 0)
    end = next((at for at, found in starts if at > own and found != request_id), len(text))
    return text[own:end]
