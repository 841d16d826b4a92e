"""Outputs in a store: whole or not at all, whatever happens; and the small values beside them."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import stores

from excamera_dask.errors import ContainerError
from excamera_dask.journal import Journal, fingerprint, writing_alone
from excamera_dask.storage import (
    AccessDenied,
    NoSuchBucket,
    S3Url,
    StorageError,
    StoreUnavailable,
    claim_file,
    is_remote,
    locate,
    open_output,
    whole_output,
)
from excamera_dask.storage import folder as folders
from excamera_dask.storage.bucket import Patience, open_bucket
from excamera_dask.storage.checks import claim_object, object_exists
from excamera_dask.storage.folder import FileFolder, open_folder
from excamera_dask.storage.multipart import PART_BYTES

MANY_BYTES = 2 * PART_BYTES + 12345


def bytes_of(count: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8).tobytes()


def url_of(store: stores.Store, key: str) -> S3Url:
    place = locate(store.url(key))
    assert isinstance(place, S3Url)
    return place


@pytest.fixture(params=["file", "object"])
def place(request, s3, tmp_path):
    """Where an output goes, and how to look at it from outside."""
    if request.param == "file":
        return tmp_path / "out.bin", lambda: (tmp_path / "out.bin").read_bytes()
    return s3.url("out.bin"), lambda: s3.get("out.bin")


@pytest.mark.parametrize("size", [0, 1000, PART_BYTES, PART_BYTES + 1, MANY_BYTES])
def test_the_head_can_be_patched_at_the_end(place, size):
    path, look = place
    data = bytearray(bytes_of(size))
    output = open_output(path)
    for start in range(0, size, 1 << 20):
        output.file.write(data[start : start + (1 << 20)])
    if size >= 1000:
        output.file.seek(10)
        assert output.file.read(4) == data[10:14]
        output.file.seek(100)
        output.file.write(b"patched")
        data[100:107] = b"patched"
        output.file.seek(0, 2)
        output.file.write(b"end")
        data += b"end"
        assert output.file.tell() == len(data)
    output.commit()
    output.discard()
    assert look() == bytes(data)


def test_bytes_that_were_sent_cannot_be_written_again(s3):
    output = open_output(s3.url("out.bin"))
    output.file.write(bytes(MANY_BYTES))
    output.file.seek(PART_BYTES + 5)
    with pytest.raises(OSError, match="cannot be written again"):
        output.file.write(b"x")
    output.discard()


@pytest.mark.parametrize("size", [1000, MANY_BYTES])
def test_what_is_discarded_leaves_the_old_object_and_nothing_else(s3, size):
    s3.put("out.bin", b"precious")
    output = open_output(s3.url("out.bin"))
    output.file.write(bytes(size))
    assert s3.uploads() == (["out.bin"] if size > PART_BYTES else [])
    output.discard()
    assert s3.get("out.bin") == b"precious"
    assert s3.uploads() == []
    assert s3.names() == ["out.bin"]


@pytest.fixture
def proxy(s3, monkeypatch):
    with stores.Proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def test_parts_are_sent_again_when_the_store_falters(s3, proxy):
    data = bytes_of(MANY_BYTES)
    proxy.once(stores.s3_error(503, "SlowDown"), times=2, method="PUT")
    output = open_output(s3.url("out.bin"))
    output.file.write(data)
    output.commit()
    assert s3.get("out.bin") == data


def test_a_part_that_is_refused_ends_the_output(s3, proxy):
    output = open_output(s3.url("out.bin"))
    proxy.fault = lambda r: stores.s3_error(403, "AccessDenied") if r.method == "PUT" else None
    output.file.write(bytes(MANY_BYTES))
    with pytest.raises(AccessDenied, match=r"out.bin: access denied"):
        output.commit()
    proxy.fault = lambda r: None
    output.discard()
    assert (s3.names(), s3.uploads()) == ([], [])


def test_an_upload_that_was_ended_from_elsewhere(s3, proxy):
    output = open_output(s3.url("out.bin"))
    proxy.fault = lambda r: stores.s3_error(404, "NoSuchUpload") if r.method == "PUT" else None
    output.file.write(bytes(MANY_BYTES))
    with pytest.raises(StorageError, match="does another job write it"):
        output.commit()
    output.discard()


def test_leftovers_of_a_killed_job_are_removed_by_the_next(s3):
    for key in ("out.bin", "out.bin", "out.bin.other"):
        s3.client.create_multipart_upload(Bucket=s3.bucket, Key=key)
    claim_object(url_of(s3, "out.bin"))
    assert s3.uploads() == ["out.bin.other"]


def test_leftovers_of_a_killed_writer_go_when_another_has_written(s3):
    """As of a worker that was killed while it wrote the output of a job, which another worker then did."""
    for key in ("out.bin", "out.bin", "out.bin.other"):
        s3.client.create_multipart_upload(Bucket=s3.bucket, Key=key)
    with whole_output(s3.url("out.bin")) as file:
        file.write(bytes(MANY_BYTES))
    assert s3.uploads() == ["out.bin.other"]
    assert len(s3.get("out.bin")) == MANY_BYTES


def test_leftovers_that_cannot_be_looked_for_are_told_once(s3, proxy):
    proxy.fault = lambda r: (
        stores.s3_error(403, "AccessDenied") if r.method == "GET" and "uploads" in r.path else None
    )
    told: list[str] = []
    claim_object(url_of(s3, "out.bin"), told.append)
    with whole_output(s3.url("out.bin"), told.append) as file:
        file.write(bytes(MANY_BYTES))
    (line,) = told
    assert "s3:ListBucketMultipartUploads" in line and "\n" not in line
    assert len(s3.get("out.bin")) == MANY_BYTES


def test_leftovers_that_cannot_be_ended_are_told_once(s3, proxy):
    begun = s3.client.create_multipart_upload(Bucket=s3.bucket, Key="out.bin")["UploadId"]
    proxy.fault = lambda r: (
        stores.s3_error(403, "AccessDenied") if r.method == "DELETE" and begun in r.path else None
    )
    told: list[str] = []
    claim_object(url_of(s3, "out.bin"), told.append)
    with whole_output(s3.url("out.bin"), told.append) as file:
        file.write(bytes(MANY_BYTES))
    (line,) = told
    assert "s3:AbortMultipartUpload" in line and "out.bin" in line and "\n" not in line
    assert (s3.names(), s3.uploads()) == (["out.bin"], ["out.bin"])


def test_leftovers_that_somebody_else_ends_are_no_news(s3, proxy):
    s3.client.create_multipart_upload(Bucket=s3.bucket, Key="out.bin")
    proxy.once(stores.s3_error(404, "NoSuchUpload"), method="DELETE")
    told: list[str] = []
    with whole_output(s3.url("out.bin"), told.append) as file:
        file.write(bytes(MANY_BYTES))
    assert told == []


def test_what_cannot_be_written_is_found_out_before(s3, proxy):
    with pytest.raises(NoSuchBucket, match="no bucket no-such-bucket"):
        claim_object(S3Url("no-such-bucket", "out.bin"))
    url = url_of(s3, "out.bin")
    proxy.fault = lambda r: stores.s3_error(403, "AccessDenied") if r.method == "POST" else None
    with pytest.raises(AccessDenied, match="no right to it"):
        claim_object(url)
    assert not object_exists(url)
    s3.put("out.bin", b"")
    assert object_exists(url)


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ContainerError, match="cannot write there"):
        open_output(tmp_path / "absent" / "out.bin")


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "out.bin"
    link.symlink_to(tmp_path / "disk" / "real.bin")
    output = open_output(link)
    output.file.write(b"data")
    output.commit()
    output.discard()
    assert link.is_symlink() and link.read_bytes() == b"data"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real.bin"]


def test_a_full_disk_is_told_by_the_outputs_name_and_leaves_nothing(tmp_path):
    output = open_output(tmp_path / "out.bin")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ContainerError, match=r"/out.bin: cannot be written \(file too large\)"):
            output.file.write(bytes(100_000))
            output.commit()
        output.discard()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


def commit(path, data: bytes = b"new", **options) -> None:
    output = open_output(path, **options)
    try:
        output.file.write(data)
        output.commit()
    finally:
        output.discard()


def test_a_replaced_file_keeps_its_attributes(tmp_path):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    path.chmod(0o604)
    try:
        os.setxattr(path, "user.mine", b"1")
    except OSError:
        pytest.skip("no extended attributes here")
    commit(path)
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o604
    assert os.getxattr(path, "user.mine") == b"1"


def test_nobody_may_look_into_what_replaces_a_private_file(tmp_path):
    path = tmp_path / "out.bin"
    path.touch(0o600)
    output = open_output(path)
    (hidden,) = (entry for entry in tmp_path.iterdir() if entry != path)
    assert stat.S_IMODE(hidden.stat().st_mode) == 0o600
    path.unlink()
    output.commit()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_name_among_several_is_replaced_alone(tmp_path):
    path, other = tmp_path / "out.bin", tmp_path / "other.bin"
    path.write_bytes(b"old")
    os.link(path, other)
    commit(path)
    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"old")


def test_bytes_are_on_the_disk_before_the_name_tells_of_them(tmp_path, monkeypatch):
    path, seen = tmp_path / "out.bin", []
    real_sync, real_replace = os.fsync, os.replace

    def sync(handle):
        seen.append(os.fstat(handle).st_size)
        real_sync(handle)

    def replace(source, target):
        seen.append("named")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    commit(path, bytes(100_000))
    assert seen == [100_000, "named"]


def test_a_file_that_grew_on_another_disk(tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as far:
        if os.stat(far).st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is but one disk")
        commit(tmp_path / "out.bin", bytes_of(300_000), folder=far)
        assert os.listdir(far) == []
    assert (tmp_path / "out.bin").read_bytes() == bytes_of(300_000)
    assert [path.name for path in tmp_path.iterdir()] == ["out.bin"]


def test_a_file_that_is_mounted(tmp_path):
    """As into a container: no other can take its place, so it is written over."""
    for name in ("outside", "out.bin"):
        (tmp_path / name).write_bytes(b"old, and longer than the new")
    code = (
        "from excamera_dask.storage import whole_output\n"
        "with whole_output('out.bin') as file: file.write(b'new')"
    )
    script = 'mount --bind outside out.bin 2>/dev/null || exit 77; exec "$0" -c "$1"'
    try:
        command = ["unshare", "-rm", "sh", "-c", script, sys.executable, code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if done.returncode == 77 or done.stderr.startswith("unshare"):
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outside").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.bin", "outside"]


@pytest.mark.parametrize("what", ["folder gone", "a folder in its place"])
def test_what_becomes_of_the_place_meanwhile(what, tmp_path):
    path = tmp_path / "films" / "out.bin"
    path.parent.mkdir()
    output = open_output(path)
    output.file.write(b"data")
    if what == "folder gone":
        shutil.rmtree(path.parent)
    else:
        path.mkdir()
    with pytest.raises(ContainerError, match=r"/films/out.bin: cannot be written \("):
        output.commit()
    output.discard()
    assert [entry.name for entry in tmp_path.rglob("*.part")] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_what_belongs_to_others_is_refused_before_any_work():
    """In a folder such as /tmp, and where only its folder may be written."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o1777)
        writable, readable = Path(folder, "writable.bin"), Path(folder, "readable.bin")
        writable.touch()
        writable.chmod(0o666)
        readable.touch()
        readable.chmod(0o644)
        os.seteuid(65534)
        try:
            with pytest.raises(ContainerError, match="belongs to somebody else"):
                claim_file(str(writable))
            with pytest.raises(ContainerError, match="no permission"):
                claim_file(str(readable))
            assert claim_file(f"{folder}/new.bin") is False
            commit(f"{folder}/new.bin")
        finally:
            os.seteuid(0)


def test_a_socket_is_connected_to(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        commit(tmp_path / "socket", b"data")
        peer, _ = listening.accept()
        with peer:
            assert peer.recv(100) == b"data"
            assert peer.recv(100) == b""
    with pytest.raises(ContainerError, match="connection refused"):
        open_output(tmp_path / "socket")


def test_a_library_is_warned_of_a_pipe_without_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = subprocess.Popen(["sh", "-c", "sleep 0.5; cat pipe"], cwd=tmp_path, stdout=-1)
    with pytest.warns(match="pipe that nobody reads yet"):
        commit(tmp_path / "pipe", b"data")
    assert read.communicate()[0] == b"data"


# Folders of small values


@pytest.fixture(params=["files", "objects"])
def parent(request, s3, tmp_path):
    return str(tmp_path / "out.excamera") if request.param == "files" else s3.url("out.excamera")


def test_values_come_back(parent):
    folder = open_folder(parent, "a")
    values = {f"{n:03d}": bytes_of(1000 + n, n) for n in range(40)}
    for name, data in values.items():
        folder.write(name, data)
    folder.write("000", b"again")
    values["000"] = b"again"
    folder.close()
    fresh = open_folder(parent, "a")
    assert fresh.names() == {name: len(data) for name, data in values.items()}
    assert {name: fresh.read(name) for name in reversed(values)} == values
    assert fresh.read("absent") is None
    fresh.drop("003")
    assert fresh.read("003") is None
    assert "003" not in open_folder(parent, "a").names()
    assert open_folder(parent, "b").names() == {}


def test_removal_takes_ours_and_leaves_the_rest(parent, s3, tmp_path):
    for name in ("a", "b", "stranger"):
        folder = open_folder(parent, name)
        folder.write("x", b"1")
        folder.close()
    open_folder(parent, "a").remove_all(lambda name: name in ("a", "b"), print)
    assert open_folder(parent, "a").names() == {}
    assert open_folder(parent, "stranger").names() == {"x": 1}


def test_an_empty_folder_goes(parent, s3, tmp_path):
    open_folder(parent, "a").close()
    assert list(tmp_path.iterdir()) == []
    assert s3.names() == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(folders.CannotKeep, match="cannot keep finished chunks"):
        open_folder(tmp_path / "out", "a")


def test_memory_of_values_on_their_way_is_bounded(s3, monkeypatch):
    monkeypatch.setattr(folders, "WRITING_BYTES", 10_000)
    monkeypatch.setattr(folders, "KEPT_BYTES", 5_000)
    folder = open_folder(s3.url("out.excamera"), "a")
    for n in range(30):
        folder.write(f"{n:03d}", bytes(3000))
        assert sum(size for _, size in folder._writing.values()) <= 10_000
        assert sum(map(len, folder._kept.values())) <= 5_000
    assert list(folder._kept) == ["000"], "what is read first is kept"
    folder.close()
    assert len(open_folder(s3.url("out.excamera"), "a").names()) == 30


def test_a_write_that_fails_is_told_by_one_of_the_next(s3, proxy):
    open_bucket(s3.bucket).patience = Patience(2, 5)
    folder = open_folder(s3.url("out.excamera"), "a")
    proxy.fault = lambda r: stores.s3_error(503, "SlowDown") if r.method == "PUT" else None
    with pytest.raises(StoreUnavailable, match="SlowDown"):
        for n in range(100):
            folder.write(f"{n:03d}", b"x")


def test_listing_is_one_request_and_reading_one_each(s3, proxy):
    parent = s3.url("out.excamera")
    folder = open_folder(parent, "a")
    for n in range(20):
        folder.write(f"{n:03d}", b"x")
    folder.close()
    proxy.seen.clear()
    fresh = open_folder(parent, "a")
    assert len(fresh.names()) == 20
    assert len(proxy.seen) == 1
    for n in range(20):
        assert fresh.read(f"{n:03d}") == b"x"
    assert len(proxy.seen) == 21


# The journal over both


@pytest.fixture(params=["file", "object"])
def out(request, s3, tmp_path):
    return str(tmp_path / "out.webm") if request.param == "file" else s3.url("out.webm")


def test_a_journal_keeps_chunks(out):
    name = fingerprint("a job")
    journal = Journal(out, name)
    chunks = {n: (bytes_of(500, n), b"", bytes_of(20, n)) for n in (0, 3, 12)}
    for n, packets in chunks.items():
        journal.write(n, packets)
    journal.close()
    again = Journal(out, name)
    assert again.chunks() == dict.fromkeys(chunks, 532)
    assert {n: again.read(n) for n in chunks} == chunks
    assert again.read(1) is None
    assert Journal(out, fingerprint("another")).chunks() == {}
    again.remove()
    assert Journal(out, name).chunks() == {}


def test_a_damaged_chunk_counts_as_missing(out):
    name = fingerprint("a job")
    journal = Journal(out, name)
    for n in range(4):
        journal.write(n, [bytes_of(100, n)])
    journal.close()
    folder = open_folder(out + ".excamera", name)
    data = folder.read("00000001.chunk")
    folder.write("00000001.chunk", data[:-1] + bytes([data[-1] ^ 1]))
    folder.write("00000002.chunk", b"foreign")
    folder.write("readme.txt", bytes(100))
    folder.close()
    journal = Journal(out, name)
    assert set(journal.chunks()) - {1} == {0, 3}
    assert (journal.read(1), journal.read(2)) == (None, None)
    assert set(Journal(out, name).chunks()) == {0, 3}


def test_a_chunk_under_another_name_counts_as_missing(out):
    """Two files swapped, one copied over another, one taken from another job's folder: whole, and not what is asked for."""
    names = fingerprint("a job"), fingerprint("another")
    for seed, name in enumerate(names):
        journal = Journal(out, name)
        for n in range(5):
            journal.write(n, [bytes_of(100, 10 * seed + n)])
        journal.close()
    ours, theirs = (open_folder(out + ".excamera", name) for name in names)
    ours.names()
    kept = [ours.read(f"{n:08d}.chunk") for n in range(5)]
    for n, data in ((0, kept[1]), (1, kept[0]), (2, kept[3]), (4, theirs.read("00000004.chunk"))):
        ours.write(f"{n:08d}.chunk", data, again=False)
    ours.close()
    journal = Journal(out, names[0])
    assert 3 in journal.chunks()
    assert [journal.read(n) for n in range(5)] == [None, None, None, (bytes_of(100, 3),), None]
    assert set(Journal(out, names[0]).chunks()) == {3}


def test_a_folder_is_where_an_output_may_grow(tmp_path):
    folder = open_folder(tmp_path / "x.excamera", "a")
    assert isinstance(folder, FileFolder)
    assert folder.local == tmp_path / "x.excamera" / "a"


@pytest.fixture(params=["file", "object"])
def long_out(request, s3, tmp_path):
    """The longest name that an output can have."""
    if request.param == "file":
        return str(tmp_path / ("日" * 80 + "0123456789.webm"))
    key = "films/" + "日" * 330
    return s3.url(key + "x" * (1024 - len(key.encode())))


def test_the_longest_names_have_journals_of_their_own(long_out):
    """Found again for the same output, and by no other, even if it differs at the very end alone."""
    name, other = fingerprint("a job"), long_out[:-1] + "y"
    with writing_alone(long_out), writing_alone(other):
        journal = Journal(long_out, name)
        journal.write(7, [b"data"])
        journal.close()
        assert Journal(other, name).chunks() == {}
        again = Journal(long_out, name)
        assert list(again.chunks()) == [7] and again.read(7) == (b"data",)
        again.remove()
    assert Journal(long_out, name).chunks() == {}


@pytest.mark.parametrize("size", [100, 246])
def test_names_that_leave_room_are_kept_whole(size, tmp_path):
    out = str(tmp_path / ("a" * size))
    assert str(Journal(out, "f")) == f"{out}.excamera/f"


def test_a_job_is_found_again_through_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out.webm").symlink_to("disk/film.webm")
    journal = Journal(tmp_path / "out.webm", "f")
    assert str(journal) == str(tmp_path / "disk" / "film.webm.excamera" / "f")
    (tmp_path / "null.webm").symlink_to(os.devnull)
    assert str(Journal(tmp_path / "null.webm", "f")) == str(tmp_path / "null.webm.excamera" / "f")


def test_one_job_at_a_time_writes_an_output(out, tmp_path):
    with writing_alone(out):
        if is_remote(out):
            return
        with pytest.raises(folders.CannotKeep, match="another job is writing"):
            writing_alone(out).__enter__()
    with writing_alone(out):
        pass
    assert list(tmp_path.iterdir()) == []
