"""Objects as files: every byte where it belongs, few requests, little more fetched than needed."""

from __future__ import annotations

import numpy as np
import pytest
import stores

from excamera_dask.errors import SourceError
from excamera_dask.sources import open_source
from excamera_dask.storage import (
    AccessDenied,
    CredentialsRefused,
    NoCredentials,
    NoSuchBucket,
    NoSuchObject,
    ObjectChanged,
    S3Url,
    StorageError,
    StoreUnavailable,
    WrongRegion,
    locate,
    object_file,
    open_input,
)
from excamera_dask.storage.bucket import Patience, open_bucket
from excamera_dask.storage.object_file import BLOCK, CACHE_BYTES, LARGEST_RUN, ObjectFile

FEW = Patience(4, 20)


def bytes_of(count: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8).tobytes()


def opened(url: str) -> ObjectFile:
    place = locate(url)
    assert isinstance(place, S3Url)
    file = ObjectFile(place)
    file.bucket.patience = FEW
    file.bucket.requests = file.bucket.fetched = 0
    return file


@pytest.fixture(scope="module")
def film() -> bytes:
    return bytes_of(5 * BLOCK * 32 + 777)


def test_random_reads_give_the_bytes(s3, film):
    file = opened(s3.put("film", film))
    random = np.random.default_rng(3)
    for _ in range(200):
        start = int(random.integers(0, len(film) + 100))
        count = int(random.choice([1, 100, 32768, BLOCK, 5 * BLOCK + 3]))
        assert file.seek(start) == start
        assert file.read(count) == film[start : start + count]
        assert file.tell() == start + len(film[start : start + count])
    assert file.seek(-3, 2) == len(film) - 3
    assert file.read() == film[-3:]
    file.seek(0)
    assert file.readall() == film


def test_a_walk_takes_few_requests_and_fetches_once(s3, film):
    file = opened(s3.put("film", film))
    assert b"".join(iter(lambda: file.read(32768), b"")) == film
    assert file.bucket.fetched == len(film) - BLOCK, "the first block came with the opening"
    assert file.bucket.requests <= 12


def test_a_jump_fetches_a_block(s3, film):
    file = opened(s3.put("film", film))
    file.seek(100 * BLOCK + 5)
    assert file.read(10) == film[100 * BLOCK + 5 :][:10]
    assert (file.bucket.requests, file.bucket.fetched) == (1, BLOCK)


def test_a_large_read_is_one_request(s3, film):
    file = opened(s3.put("film", film))
    file.seek(10 * BLOCK)
    assert file.read(20 * BLOCK) == film[10 * BLOCK : 30 * BLOCK]
    assert (file.bucket.requests, file.bucket.fetched) == (1, 20 * BLOCK)


def test_nothing_is_read_ahead_beyond_what_is_expected(s3, film):
    file = opened(s3.put("film", film))
    file.expect(12 * BLOCK)
    for _ in range(12):
        file.read(BLOCK)
    file.close()
    assert file.bucket.fetched == 11 * BLOCK


def test_memory_is_bounded(s3, film, monkeypatch):
    monkeypatch.setattr(object_file, "CACHE_BYTES", 8 * BLOCK)
    monkeypatch.setattr(object_file, "LARGEST_RUN", 4 * BLOCK)
    file = opened(s3.put("film", film))
    while file.read(BLOCK):
        assert len(file._blocks) <= 8
    assert CACHE_BYTES >= 2 * LARGEST_RUN


def test_an_empty_object(s3):
    url = s3.put("empty", b"")
    assert opened(url).read() == b""
    with pytest.raises(SourceError, match="is empty"):
        open_source(url)


def test_files_open_too(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    for name in (tmp_path / "x", f"file://{tmp_path}/x"):
        with open_input(name) as file:
            assert file.read() == b"abc"


def test_an_object_that_changes_is_refused(s3, film):
    file = opened(s3.put("film", film))
    s3.put("film", film[::-1])
    file.seek(50 * BLOCK)
    with pytest.raises(ObjectChanged, match="changed since it was opened"):
        file.read(10)
    assert file.read(10) == b"", "whoever swallows the error finds the end"


def test_what_does_not_exist(s3):
    with pytest.raises(NoSuchObject, match=r"absent.mp4: no such object"):
        open_source(s3.url("absent.mp4"))
    with pytest.raises(NoSuchBucket, match="no bucket no-such-bucket at http://127"):
        open_source("s3://no-such-bucket/film.mp4")


@pytest.fixture
def proxy(s3, monkeypatch):
    with stores.Proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.mark.parametrize(
    "fault",
    [
        stores.s3_error(503, "SlowDown"),
        stores.s3_error(500, "InternalError"),
        stores.Fault(502, b"<html>Bad gateway</html>"),
        stores.Fault(drop=True),
        stores.Fault(cut=1000),
        stores.Fault(cut=0),
    ],
)
def test_passing_faults_are_lived_through(s3, film, proxy, fault):
    file = opened(s3.put("film", film))
    proxy.once(fault, times=2)
    file.expect(43 * BLOCK)
    file.seek(40 * BLOCK)
    assert file.read(3 * BLOCK) == film[40 * BLOCK : 43 * BLOCK]
    assert file.bucket.requests == 3


def test_a_read_that_stalls_is_given_up_and_asked_again(s3, film, proxy, monkeypatch):
    monkeypatch.setattr("excamera_dask.storage.access.STALL_SECONDS", 1)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a bucket of its own")
    file = opened(s3.put("film", film))
    proxy.once(stores.Fault(stall=1000))
    file.expect(43 * BLOCK)
    file.seek(40 * BLOCK)
    assert file.read(3 * BLOCK) == film[40 * BLOCK : 43 * BLOCK]
    assert file.bucket.requests == 2


def test_an_object_shorter_than_announced_is_not_taken(s3, film, proxy):
    file = opened(s3.put("film", film))
    proxy.once(stores.Fault(cut=1000), times=100)
    file.expect(43 * BLOCK)
    file.seek(40 * BLOCK)
    with pytest.raises(StorageError):
        file.read(3 * BLOCK)
    assert file.bucket.requests == FEW.attempts


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (stores.s3_error(403, "AccessDenied"), AccessDenied, r"access denied \(AccessDenied\)"),
        (stores.s3_error(403, "InvalidAccessKeyId"), CredentialsRefused, "are refused"),
        (stores.s3_error(403, "SignatureDoesNotMatch"), CredentialsRefused, "are refused"),
        (stores.s3_error(400, "ExpiredToken"), CredentialsRefused, r"\(ExpiredToken\)"),
        (
            stores.s3_error(400, "AuthorizationHeaderMalformed", "<Region>eu-west-3</Region>"),
            WrongRegion, "is in eu-west-3, not us-east-1: set AWS_REGION=eu-west-3",
        ),
        (stores.s3_error(301, "PermanentRedirect"), WrongRegion, "set AWS_REGION"),
        (stores.s3_error(503, "SlowDown"), StoreUnavailable, r"answers with errors \(SlowDown\)"),
        (stores.Fault(404, b"<html>Not here</html>"), NoSuchObject, "no such object"),
        (stores.Fault(drop=True), StoreUnavailable, "does not answer"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_told_soon(s3, proxy, fault, kind, says):
    proxy.fault = lambda request: fault
    with pytest.raises(kind, match=says) as raised:
        open_source(s3.url("film.mp4"))
    assert "\n" not in str(raised.value)
    assert s3.url("film.mp4") in str(raised.value)


def test_a_bucket_in_another_region_is_followed(s3, film, proxy):
    elsewhere = stores.s3_error(301, "PermanentRedirect", **{"x-amz-bucket-region": "eu-west-3"})
    proxy.fault = lambda r: None if "/eu-west-3/s3/" in r.authorization else elsewhere
    file = opened(s3.put("film", film))
    assert proxy.seen[0].authorization
    assert file.bucket.access.region == "eu-west-3"
    file.seek(40 * BLOCK)
    assert file.read(10) == film[40 * BLOCK :][:10]


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("http://127.0.0.1:1", r"does not answer \(connection refused\): check AWS_ENDPOINT_URL"),
        ("http://no-such-host.invalid", "does not answer"),
        ("https://127.0.0.1:{port}", "does not speak TLS"),
    ],
)
def test_a_wrong_endpoint(s3, monkeypatch, endpoint, says):
    port = s3.endpoint.rpartition(":")[2]
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.format(port=port))
    with pytest.raises(StoreUnavailable, match=says):
        open_source(s3.url("film.mp4"))


@pytest.mark.timeout(10)
def test_no_credentials(s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(NoCredentials, match="set AWS_PROFILE"):
        open_source(s3.url("film.mp4"))


def test_public_buckets_need_no_credentials(s3, monkeypatch):
    url = s3.put("film", b"abc")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    s3.client.put_object_acl(Bucket=s3.bucket, Key="film", ACL="public-read")
    assert opened(url).read() == b"abc"


def test_profiles_of_the_shared_files(s3, monkeypatch, tmp_path):
    url = s3.put("film", b"abc")
    endpoint = s3.endpoint
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(
        f"[profile films]\nregion = eu-central-1\nservices = mine\n"
        f"[services mine]\ns3 =\n  endpoint_url = {endpoint}\n"
    )
    (tmp_path / "credentials").write_text(
        "[films]\naws_access_key_id = one\naws_secret_access_key = two\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "films")
    assert opened(url).read() == b"abc"
    access = open_bucket(s3.bucket).access
    assert (access.region, access.endpoint) == ("eu-central-1", endpoint)
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(StorageError, match="absent"):
        opened(url)
