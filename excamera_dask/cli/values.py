"""Values that the command's options take beyond numbers and paths."""

from __future__ import annotations

import re
from typing import Any

import click


class BatchChunks(click.ParamType):
    """A number of chunks >= 1, or "unlimited" (None)."""

    name = "INTEGER|unlimited"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if value == "unlimited":
            return "unlimited"
        try:
            chunks = int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number of chunks nor 'unlimited'", param, ctx)
        if chunks < 1:
            self.fail(f"{chunks} chunks make no batch; at least 1", param, ctx)
        return chunks


class Times(click.ParamType):
    """Comma-separated times as seconds or [HH:]MM:SS[.mmm], as an ascending tuple of seconds."""

    name = "TIME[,TIME...]"
    pattern = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)")

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(sorted(self._seconds(text.strip(), param, ctx) for text in value.split(",")))

    def _seconds(
        self, text: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        match = self.pattern.fullmatch(text)
        if match is None:
            self.fail(f"{text!r} is not a time such as 12.5 or 1:02:03.25", param, ctx)
        hours, minutes, seconds = match.groups(default="0")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


class Executor(click.ParamType):
    """The word sync, the word local, or the address of a Dask scheduler."""

    name = "sync|local|ADDRESS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if text in ("sync", "local") or re.fullmatch(r"[a-z]+://\S+", text):
            return text
        self.fail(
            f"{text!r} is neither sync, local nor a scheduler address such as tcp://host:8786",
            param,
            ctx,
        )
