"""Values that the command's options take beyond numbers and paths."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from excamera_dask.measuring.methods import Method
    from excamera_dask.storage import S3Url


class Place(click.ParamType):
    """A file by its path or file:// URL, as a Path, or an object by its URL s3://bucket/key, as an S3Url."""

    name = "PATH|s3://BUCKET/KEY"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | S3Url:
        if not isinstance(value, str):
            return value
        if not value:
            self.fail("an empty path names nothing", param, ctx)
        if ":/" not in value:
            return Path(value)
        from excamera_dask.storage import InvalidLocation, locate

        try:
            place = locate(value)
        except InvalidLocation as error:
            self.fail(str(error), param, ctx)
        return Path(place) if isinstance(place, str) else place


class OutputFile(Place):
    """An output by its path, or by its URL where that is `remote`; "-" is standard output.

    Its name ends in one of `suffixes`, if any are given, but may be any of a pipe or a device where there is but one.
    """

    def __init__(self, *suffixes: str, remote: bool = False) -> None:
        self.suffixes, self.remote = suffixes, remote
        self.name = Place.name if remote else "PATH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | S3Url:
        from excamera_dask.storage.stream_output import is_stream

        place = Path("/dev/stdout") if value == "-" else super().convert(value, param, ctx)
        if not isinstance(place, Path) and not self.remote:
            self.fail(f"{place}: this is written to files alone", param, ctx)
        if str(value).endswith("/"):
            self.fail(f"{value}: names a folder; give a file in it", param, ctx)
        is_named = not self.suffixes or place.suffix.lower() in self.suffixes
        is_free = len(self.suffixes) == 1 and isinstance(place, Path) and is_stream(str(place))
        if not is_named and not is_free:
            *others, last = self.suffixes
            wanted = f"{', '.join(others)} or {last}" if others else last
            nameless = place.name.lower() in self.suffixes
            lack = " needs a name before" if nameless else "'s name must end in"
            self.fail(f"{value}: the output{lack} {wanted}", param, ctx)
        return place


class BatchChunks(click.ParamType):
    """A number of chunks >= 1, or "unlimited" (None)."""

    name = "INTEGER|unlimited"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        if value in (None, "unlimited"):
            return None
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
    pattern = re.compile(r"(?:(?:([0-9]{1,9}):)?([0-9]{1,9}):)?([0-9]{1,9}(?:\.[0-9]*)?)")

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
        if (match[1] and int(minutes) > 59) or (match[2] and float(seconds) >= 60):
            self.fail(f"{text!r} has more than 59 minutes or seconds behind a colon", param, ctx)
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


class ReadingValue(click.ParamType):
    """A value of the given field of `overrides.Reading`, which says what it can be."""

    def __init__(self, field: str, name: str) -> None:
        self.field, self.name = field, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from excamera_dask.errors import InvalidSetting
        from excamera_dask.overrides import Reading

        given: dict[str, Any] = {self.field: value}
        try:
            return getattr(Reading(**given), self.field)
        except InvalidSetting as error:
            self.fail(str(error), param, ctx)


class Number(click.FloatRange):
    """A finite number within bounds; "nan" lies within any for click."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Executor(click.ParamType):
    """The words sync, local and lambda, or the address of a Dask scheduler."""

    name = "sync|local|lambda|ADDRESS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if text not in ("sync", "local", "lambda") and not re.fullmatch(r"[a-z]+://\S+", text):
            self.fail(
                f"{text!r} is neither sync, local, lambda nor a scheduler address such as tcp://host:8786",
                param,
                ctx,
            )
        return text


class CqLevels(click.ParamType):
    """Comma-separated quality levels 0..63, at least two different ones, as an ascending tuple."""

    name = "Q,Q[,Q...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            levels = tuple(sorted({int(text) for text in value.split(",")}))
        except ValueError:
            self.fail(f"{value!r} is not a list of levels such as 20,30,40", param, ctx)
        if len(levels) < 2 or levels[0] < 0 or levels[-1] > 63:
            self.fail("at least two different levels from 0 to 63", param, ctx)
        return levels


class Methods(click.ParamType):
    """Methods between blanks: [N, x] as "N,x", or presets."""

    name = '"N,x PRESET PRESET:N ..."'

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Method, ...]:
        from excamera_dask.measuring.methods import parse_method

        if isinstance(value, tuple):
            return value
        try:
            return tuple(parse_method(text) for text in value.split())
        except ValueError as error:
            self.fail(str(error), param, ctx)
