"""The same against a real server: Ceph's S3 gateway, where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import radosgw
import stores
import streams

from excamera_dask.api import encode
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.progress import ChunkDone, Event
from excamera_dask.sources import open_source, read_frames
from excamera_dask.storage import (
    CredentialsRefused,
    NoSuchBucket,
    NoSuchObject,
    ObjectChanged,
    S3Url,
    open_output,
)
from excamera_dask.storage.checks import claim_object
from excamera_dask.storage.multipart import PART_BYTES

pytestmark = pytest.mark.slow
OPTIONS: dict[str, Any] = {"chunk_frames": 4, "batch_chunks": 3, "cpu_used": 8}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with radosgw.radosgw(tmp_path_factory.mktemp("ceph")) as endpoint:
        yield endpoint


@pytest.fixture
def store(endpoint, monkeypatch) -> stores.Store:
    for name, value in stores.aws_environment(endpoint).items():
        monkeypatch.setenv(name, value)
    return stores.new_bucket(endpoint)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.y4m"
    with Y4mWriter(path, 96, 64, Fraction(25)) as writer:
        for image in streams.moving_images(96, 64, 23):
            writer.write(image)
    return path


def test_a_job_that_is_interrupted_and_goes_on(store, film, tmp_path):
    class Interrupted(Exception):
        pass

    def interrupt(event: Event) -> None:
        if isinstance(event, ChunkDone) and event.chunks_done == 4:
            raise Interrupted

    source, out = store.put("film.y4m", film.read_bytes()), store.url("a b/out+ü.webm")
    with pytest.raises(Interrupted):
        encode(source, out, executor="sync", on_event=interrupt, **OPTIONS)
    assert len(store.names()) == 5
    assert encode(source, out, executor="sync", **OPTIONS).resumed_chunks == 4
    encode(film, tmp_path / "out.webm", executor="sync", **OPTIONS)
    assert store.get("a b/out+ü.webm") == (tmp_path / "out.webm").read_bytes()
    assert store.names() == ["a b/out+ü.webm", "film.y4m"]


def test_an_upload_whose_first_part_comes_last(store):
    data = np.random.default_rng(1).bytes(2 * PART_BYTES + 12345)
    output = open_output(store.url("out.bin"))
    output.file.write(data)
    output.file.seek(10)
    output.file.write(b"patched")
    assert store.uploads() == ["out.bin"]
    assert store.names() == []
    output.commit()
    assert store.get("out.bin") == data[:10] + b"patched" + data[17:]
    assert store.uploads() == []


def test_leftovers_are_removed(store):
    store.client.create_multipart_upload(Bucket=store.bucket, Key="out.bin")
    claim_object(S3Url(store.bucket, "out.bin"))
    assert store.uploads() == []


def test_what_is_refused(store, film, monkeypatch):
    with pytest.raises(NoSuchObject):
        open_source(store.url("absent.mp4"))
    with pytest.raises(NoSuchBucket):
        open_source("s3://no-such-bucket/film.mp4")
    described = open_source(store.put("film.y4m", film.read_bytes()))
    store.put("film.y4m", film.read_bytes()[::-1])
    with pytest.raises(ObjectChanged):
        read_frames(described, 0, 3)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(CredentialsRefused, match="SignatureDoesNotMatch"):
        open_source(store.url("film.y4m"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(CredentialsRefused, match="InvalidAccessKeyId"):
        open_source(store.url("film.y4m"))
