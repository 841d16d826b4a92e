"""Paths and URLs: what names a file, what an object, and what is refused."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from excamera_dask.cli.options.values import Place
from excamera_dask.storage import InvalidLocation, S3Url, beside, full_name, is_remote, locate


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("film.mp4", "film.mp4"),
        ("/films/film.mp4", "/films/film.mp4"),
        ("file:///films/a%20b.mp4", "/films/a b.mp4"),
        ("file://localhost/films/film.mp4", "/films/film.mp4"),
        ("12:30.mp4", "12:30.mp4"),
        ("a:b/c.mp4", "a:b/c.mp4"),
        ("takes:/film.mp4", "takes:/film.mp4"),
        ("s3://bucket/film.mp4", S3Url("bucket", "film.mp4")),
        ("S3://bucket/a/b c/ü%.mp4", S3Url("bucket", "a/b c/ü%.mp4")),
        (Path("s3://bucket/a/film.mp4"), S3Url("bucket", "a/film.mp4")),
        (S3Url("bucket", "film.mp4"), S3Url("bucket", "film.mp4")),
    ],
)
def test_places(text, place):
    assert locate(text) == place
    assert is_remote(text) == isinstance(place, S3Url)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\0b.webm", "zero byte"),
        ("s3://bucket/" + "a" * 1025, "1024 bytes at most"),
        ("s3://bucket/" + "ü" * 513, "1024 bytes at most"),
        ("https://host/film.mp4", "only files, file:///path and s3://bucket/key"),
        ("gs://bucket/film.mp4", "only files"),
        ("s3://bucket", "is named s3://bucket/key"),
        ("s3://bucket/", "is named s3://bucket/key"),
        ("s3://bucket/folder/", "is named s3://bucket/key"),
        ("s3:///film.mp4", "is named s3://bucket/key"),
        ("s3://b*/film.mp4", "is named s3://bucket/key"),
        ("s3://bucket/a//b.mp4", "empty parts"),
        ("s3://bucket/../b.mp4", "empty parts"),
        ("file://host/film.mp4", "three slashes"),
    ],
)
def test_what_names_nothing_is_refused(text, says):
    with pytest.raises(InvalidLocation, match=says):
        locate(text)


def test_full_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert full_name("film.mp4") == str(tmp_path / "film.mp4")
    assert full_name(f"file://{tmp_path}/x.mp4") == str(tmp_path / "x.mp4")
    assert full_name(Path("s3://bucket/x.mp4")) == "s3://bucket/x.mp4"


def test_the_parts_of_a_url():
    url = S3Url("bucket", "a/film.webm")
    assert (str(url), url.name, url.suffix) == ("s3://bucket/a/film.webm", "film.webm", ".webm")
    assert beside(url, ".excamera") == "s3://bucket/a/film.webm.excamera"


def test_places_on_the_command_line():
    assert Place().convert("a/b.mp4", None, None) == Path("a/b.mp4")
    assert Place().convert("file:///a/b.mp4", None, None) == Path("/a/b.mp4")
    assert Place().convert("s3://bucket/b.mp4", None, None) == S3Url("bucket", "b.mp4")
    with pytest.raises(click.BadParameter, match="only files"):
        Place().convert("ftp://host/b.mp4", None, None)


@pytest.mark.parametrize("character", [*map(chr, range(1, 32)), "\x7f"])
def test_control_characters_in_a_key_are_refused_in_one_line(character: str) -> None:
    with pytest.raises(InvalidLocation, match="control characters") as refusal:
        locate(f"s3://bucket/a{character}b/film.mp4")
    assert str(refusal.value).isprintable()
