"""Whole jobs on objects: the bytes of a local encode, also after kill -9, Ctrl-C and a store that falters."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import dask
import numpy as np
import psutil
import pytest
import stores
import streams
from click.testing import CliRunner
from distributed import Client, KilledWorker, LocalCluster
from local_lambda import wait_for

from excamera_dask import EncodedVideo, ExcameraError, planning
from excamera_dask.api import encode, plan, submit
from excamera_dask.cli import cli, main
from excamera_dask.errors import SourceError
from excamera_dask.first_pass import video_frame
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.progress import ChunkDone, Event, Notice, Started
from excamera_dask.sources import open_source, read_frames, reading
from excamera_dask.storage import NoSuchBucket, ObjectChanged, StorageError
from excamera_dask.storage.bucket import Patience, open_bucket

WIDTH, HEIGHT, FRAMES = 96, 64, 23
OPTIONS: dict[str, Any] = {"chunk_frames": 4, "batch_chunks": 3, "cpu_used": 8}
"""[4, 3]: 6 chunks in 2 batches, the last of 3 frames."""


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.y4m"
    with Y4mWriter(path, WIDTH, HEIGHT, Fraction(25)) as writer:
        for image in streams.moving_images(WIDTH, HEIGHT, FRAMES):
            writer.write(image)
    return path


@pytest.fixture(scope="module")
def expected(film, tmp_path_factory) -> bytes:
    """The output of a local encode."""
    out = tmp_path_factory.mktemp("expected") / "out.webm"
    encode(film, out, executor="sync", **OPTIONS)
    return out.read_bytes()


@pytest.fixture
def source(s3, film) -> str:
    return s3.put("in/film.y4m", film.read_bytes())


def write_mp4(path: Path, frames: int, side: int = 320, container: str = "mp4") -> Path:
    """A noisy film of large packets, with a key frame every 20 and its index at the end."""
    random = np.random.default_rng(5)
    with av.open(str(path), "w", format=container) as file:
        stream: Any = file.add_stream("libx264", rate=25)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        stream.options = {
            "qp": "10",
            "preset": "ultrafast",
            "g": "20",
            "bf": "2",
            "sc_threshold": "0",
        }
        for _ in range(frames):
            pixels = random.integers(0, 256, (side * 3 // 2, side), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "yuv420p")))
        file.mux(stream.encode(None))
    return path


# Reading


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_film_is_the_same_as_from_a_file(s3, tmp_path, container):
    path = write_mp4(tmp_path / "film", 90, 128, container)
    local = open_source(path)
    remote = open_source(s3.put("film", path.read_bytes()))
    for name in ("frame_count", "counted", "warnings", "time_base", "average_rate", "colour"):
        assert getattr(local, name) == getattr(remote, name)
    for name in ("all_times", "order"):
        assert np.array_equal(getattr(local, name), getattr(remote, name))
    for ours, theirs in zip(local.anchors, remote.anchors, strict=True):
        assert np.array_equal(ours, theirs)
    assert len(remote.anchors.frames) == 5
    for start in (87, 0, 41, 47, 19):
        for a, b in zip(read_frames(local, start, 3), read_frames(remote, start, 3), strict=True):
            assert a.to_bytes() == b.to_bytes()


def test_an_index_is_fetched_without_the_film(s3, tmp_path):
    path = write_mp4(tmp_path / "film.mp4", 200)
    size = path.stat().st_size
    url = s3.put("film.mp4", path.read_bytes())
    bucket = open_bucket(s3.bucket)
    source = open_source(url)
    assert source.frame_count == 200
    assert size > 20 << 20
    assert bucket.fetched < size / 5
    assert bucket.requests < 20


def test_a_damaged_key_frame_of_an_object_is_concealed_as_in_a_file(s3, tmp_path):
    """The index pass does not see it; the reader that comes in there does."""
    path = write_mp4(tmp_path / "film.mp4", 90, 128)
    with av.open(str(path)) as container:
        keys = [p for p in container.demux(video=0) if p.size and p.is_keyframe]
        position, size = keys[2].pos, keys[2].size
    data = bytearray(path.read_bytes())
    for number in range(8):
        data[position + size // 3 + 7 * number] ^= 0x55
    path.write_bytes(data)
    local, remote = open_source(path), open_source(s3.put("film.mp4", bytes(data)))
    assert local.warnings and not remote.proven and len(remote.keyframes) == 5
    for start in (40, 57, 80, 20):
        pairs = zip(read_frames(local, start, 3), read_frames(remote, start, 3), strict=True)
        assert all(a.to_bytes() == b.to_bytes() for a, b in pairs)
        reading._idle.clear()


def test_recovery_points_of_an_object_are_no_entries(s3, tmp_path):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as file:
        parameters = {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}
        stream: Any = file.add_stream("libx264", rate=25, options=parameters)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, image in enumerate(streams.moving_images(WIDTH, HEIGHT, 40)):
            file.mux(stream.encode(video_frame(image, number)))
        file.mux(stream.encode(None))
    local, remote = open_source(path), open_source(s3.put("film.mp4", path.read_bytes()))
    assert local.keyframes.tolist() == remote.keyframes.tolist() == [0]
    for a, b in zip(read_frames(local, 25, 3), read_frames(remote, 25, 3), strict=True):
        assert a.to_bytes() == b.to_bytes()


def test_six_frames_in_the_middle_fetch_their_group_of_pictures(s3, tmp_path):
    path = write_mp4(tmp_path / "film.mp4", 200)
    source = open_source(s3.put("film.mp4", path.read_bytes()))
    bucket = open_bucket(s3.bucket)
    bucket.fetched = 0
    read_frames(source, 100, 6)
    group = int(np.diff(source.anchors.positions)[5])
    opening = 3 << 20  # what libavformat looks at to know the codec's parameters
    assert bucket.fetched < group + opening


def test_a_film_that_changes_is_refused(s3, film, source):
    described = open_source(source)
    s3.put("in/film.y4m", film.read_bytes()[::-1])
    with pytest.raises(ObjectChanged, match="changed since it was opened"):
        read_frames(described, 0, 3)
    s3.put("in/film.y4m", film.read_bytes())
    assert len(read_frames(described, 0, 3)) == 3, "the reader was not kept"


def test_a_truncated_film_says_so(s3, film):
    described = open_source(s3.put("cut.y4m", film.read_bytes()[:-1000]))
    assert described.frame_count == FRAMES - 1
    assert "breaks off" in described.warnings[0]


def test_frames_of_y4m_that_do_not_lie_evenly(s3, film, tmp_path):
    data = film.read_bytes().replace(b"FRAME\n", b"FRAME Ip\n")
    odd = data[: len(data) // 2] + data[len(data) // 2 :].replace(b"FRAME Ip\n", b"FRAME\n")
    (tmp_path / "odd.y4m").write_bytes(odd)
    remote, local = open_source(s3.put("odd.y4m", odd)), open_source(tmp_path / "odd.y4m")
    assert remote.frame_count == local.frame_count == FRAMES


# Writing


@pytest.mark.parametrize("name", ["out.webm", "out.ivf"])
def test_an_encode_between_objects_gives_the_same_bytes(s3, film, source, tmp_path, name):
    report = encode(source, s3.url(name), executor="sync", **OPTIONS)
    encode(film, tmp_path / name, executor="sync", **OPTIONS)
    assert s3.get(name) == (tmp_path / name).read_bytes()
    assert (report.source, report.output) == (source, s3.url(name))
    assert s3.names() == ["in/film.y4m", name]


def test_worker_processes_read_objects_by_themselves(s3, source, expected):
    encode(source, s3.url("out.webm"), workers=2, **OPTIONS)
    assert s3.get("out.webm") == expected


def test_workers_that_are_many_read_pictures_again_and_give_the_same_bytes(
    s3, source, expected, monkeypatch
):
    monkeypatch.setattr(planning, "FEW_WORKERS", 0)
    plans: list[planning.Plan] = []

    def listen(event: Event) -> None:
        if isinstance(event, Started):
            plans.append(event.plan)

    with (
        LocalCluster(
            n_workers=3, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        encode(source, s3.url("out.webm"), executor=client, on_event=listen, **OPTIONS)
    assert s3.get("out.webm") == expected
    assert plans[0].scattered


def test_files_and_objects_mix(s3, film, source, expected, tmp_path):
    encode(film, s3.url("out.webm"), executor="sync", **OPTIONS)
    assert s3.get("out.webm") == expected
    encode(source, f"file://{tmp_path}/out.webm", executor="sync", **OPTIONS)
    assert (tmp_path / "out.webm").read_bytes() == expected


@pytest.fixture(scope="module")
def client_environment(s3_endpoint) -> dict[str, str]:
    return stores.aws_environment(s3_endpoint)


@pytest.fixture(scope="module")
def client(client_environment) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in client_environment.items():
            patch.setenv(name, value)
        with (
            LocalCluster(
                n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client


def test_a_submitted_job_writes_an_object(s3, source, expected, client):
    report = submit(source, s3.url("out.webm"), client=client, **OPTIONS).result(timeout=120)
    assert report.output == s3.url("out.webm")
    assert s3.get("out.webm") == expected
    video = submit(source, client=client, **OPTIONS).result(timeout=120)
    assert isinstance(video, EncodedVideo)
    video.save(s3.url("saved.webm"))
    assert s3.get("saved.webm") == expected


@pytest.mark.timeout(120)
def test_what_a_killed_worker_has_begun_is_ended_with_its_job(s3, source, proxy):
    """Where no other worker may try again."""
    proxy.fault = lambda r: stores.Fault(stall=0) if "partNumber=" in r.path else None
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        client.run(small_parts)
        future = submit(source, s3.url("out.webm"), client=client, **OPTIONS)
        wait_for(s3.uploads, "an upload")
        (worker,) = client.run(os.getpid).values()
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(KilledWorker):
            future.result(timeout=60)
        proxy.fault = lambda r: None
        wait_for(lambda: not s3.uploads(), "the end of the upload")


def small_parts() -> None:
    from excamera_dask.storage import multipart

    multipart.PART_BYTES = 1000


def test_a_plan_looks_at_an_object(source):
    assert plan(source, **OPTIONS).frame_count == FRAMES


def test_intermediates_are_kept_as_objects(s3, source):
    encode(source, s3.url("out.webm"), executor="sync", keep=s3.url("kept"), **OPTIONS)
    kept = {key for key in s3.names() if key.startswith("kept/")}
    assert {"kept/00000000.first-pass.ivf", "kept/00000001.replaced.ivf"} <= kept
    assert sum(key.endswith(".final.ivf") for key in kept) == 6


def test_what_cannot_be_is_refused_before_any_work(s3, source, expected):
    with pytest.raises(NoSuchBucket, match="no bucket"):
        encode(source, "s3://no-such-bucket/out.webm", executor="sync", **OPTIONS)
    with pytest.raises(ExcameraError, match="the output is the input"):
        encode(s3.put("x.webm", expected), s3.url("x.webm"), executor="sync")
    with pytest.raises(ExcameraError, match=r"must end in \.webm or \.ivf"):
        encode(source, s3.url("out.mp4"), executor="sync")
    with pytest.raises(SourceError, match="is empty"):
        encode(s3.put("empty", b""), s3.url("out.webm"), executor="sync")


# Faults


class Interrupted(Exception):
    """Stands for Ctrl-C, a power cut."""


def interrupt_after(chunks: int) -> Any:
    def listen(event: Event) -> None:
        if isinstance(event, ChunkDone) and event.chunks_done == chunks:
            raise Interrupted

    return listen


@pytest.mark.parametrize("done", [1, 2, 4, 5])
def test_an_interrupted_job_goes_on_from_its_objects(s3, source, expected, done):
    out = s3.url("out.webm")
    with pytest.raises(Interrupted):
        encode(source, out, executor="sync", on_event=interrupt_after(done), **OPTIONS)
    kept = [key for key in s3.names() if re.fullmatch(r"out.webm.excamera/\w{32}/\d{8}.chunk", key)]
    assert len(kept) == done
    assert "out.webm" not in s3.names()
    assert s3.uploads() == []
    events: list[Event] = []
    report = encode(source, out, executor="sync", on_event=events.append, **OPTIONS)
    assert report.resumed_chunks == done
    assert s3.get("out.webm") == expected
    assert any("continuing" in event.text for event in events if isinstance(event, Notice))
    assert s3.names() == ["in/film.y4m", "out.webm"]


def test_chunks_between_hidden_frames_go_on_from_any(s3, source, film, tmp_path):
    """Chunks that need no other chunk may lie in gaps: what is there is taken, the rest made."""
    options = {"preset": "balanced", "chunk_frames": 4, "key_distance": 12}
    encode(film, tmp_path / "expected.webm", executor="sync", **options)
    out = s3.url("out.webm")
    with pytest.raises(Interrupted):
        encode(source, out, executor="sync", on_event=interrupt_after(4), **options)
    begun = sorted(key for key in s3.names() if key.endswith(".chunk"))
    s3.client.delete_object(Bucket=s3.bucket, Key=begun[1])
    report = encode(source, out, executor="sync", **options)
    assert report.resumed_chunks == 3
    assert s3.get("out.webm") == (tmp_path / "expected.webm").read_bytes()
    assert s3.names() == ["in/film.y4m", "out.webm"]


def test_a_damaged_chunk_object_is_made_again(s3, source, expected):
    out = s3.url("out.webm")
    with pytest.raises(Interrupted):
        encode(source, out, executor="sync", on_event=interrupt_after(5), **OPTIONS)
    for number in (1, 4):  # one in a batch that is complete, one in another that is not
        (key,) = [key for key in s3.names() if key.endswith(f"{number:08d}.chunk")]
        s3.put(key, s3.get(key)[:-1] + b"!")
    with pytest.raises(ExcameraError, match=r"chunk \d is damaged; run the encode again"):
        encode(source, out, executor="sync", **OPTIONS)
    encode(source, out, executor="sync", **OPTIONS)
    assert s3.get("out.webm") == expected


@pytest.fixture
def proxy(s3, monkeypatch):
    with stores.Proxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def test_a_store_that_falters_changes_nothing(s3, source, expected, proxy):
    """Every third request is answered by an error, an end of the connection, or half an answer."""
    faults = [stores.s3_error(503, "SlowDown"), stores.Fault(drop=True), stores.Fault(cut=500)]
    count = [0]

    def decide(request: stores.Request) -> stores.Fault | None:
        count[0] += 1
        if count[0] % 3 or request.method not in ("GET", "PUT"):
            return None
        fault = faults[count[0] // 3 % 3]
        return None if request.method == "PUT" and fault.cut else fault

    proxy.fault = decide
    encode(source, s3.url("out.webm"), executor="sync", **OPTIONS)
    proxy.fault = lambda request: None
    assert s3.get("out.webm") == expected
    assert s3.names() == ["in/film.y4m", "out.webm"]
    assert count[0] > 20


def test_a_store_that_goes_away_ends_the_job_and_it_goes_on_later(s3, source, expected, proxy):
    open_bucket(s3.bucket).patience = Patience(2, 5)

    def leave(event: Event) -> None:
        if isinstance(event, ChunkDone) and event.chunks_done == 2:
            proxy.fault = lambda request: stores.Fault(drop=True)

    out = s3.url("out.webm")
    with pytest.raises(StorageError, match="does not answer"):
        encode(source, out, executor="sync", on_event=leave, **OPTIONS)
    proxy.fault = lambda request: None
    assert s3.uploads() == []
    assert encode(source, out, executor="sync", **OPTIONS).resumed_chunks >= 1
    assert s3.get("out.webm") == expected


def refused_deletion(how: str, keys: list[str]) -> stores.Fault:
    """As S3 refuses the whole request, or each object of it."""
    if how == "the whole":
        return stores.s3_error(403, "AccessDenied")
    refused = "<Code>AccessDenied</Code><Message>Access Denied</Message>"
    errors = "".join(f"<Error><Key>{key}</Key>{refused}</Error>" for key in keys)
    return stores.Fault(200, f"<DeleteResult>{errors}</DeleteResult>".encode())


@pytest.mark.parametrize("how", ["the whole", "each object", "the listing"])
def test_finished_chunks_that_cannot_be_removed_are_told(s3, source, expected, proxy, how):
    def refuse(request: stores.Request) -> stores.Fault | None:
        if how == "the listing" and s3.names().count("out.webm") and "list-type" in request.path:
            return stores.s3_error(403, "AccessDenied")
        if how == "the listing" or request.method != "POST" or "delete" not in request.path:
            return None
        return refused_deletion(how, [key for key in s3.names() if key.endswith(".chunk")])

    proxy.fault = refuse
    events: list[Event] = []
    encode(source, s3.url("out.webm"), executor="sync", on_event=events.append, **OPTIONS)
    told = [event.text for event in events if isinstance(event, Notice) and event.is_warning]
    (line,) = told
    assert "access denied" in line and "s3:DeleteObject" in line and "\n" not in line
    assert s3.url("out.webm.excamera/") in line
    assert s3.get("out.webm") == expected
    assert len(s3.names()) > 2


JOB = """
import sys
from excamera_dask.api import encode
from excamera_dask.progress import ChunkDone

def listen(event):
    if isinstance(event, ChunkDone):
        print("chunk", flush=True)

if __name__ == "__main__":
    try:
        encode(sys.argv[1], sys.argv[2], workers=2, on_event=listen, chunk_frames=4, batch_chunks=3, cpu_used=8)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_after_ctrl_c_or_kill_of_the_client_the_job_goes_on(s3, source, expected, tmp_path, sent):
    script = tmp_path / "job.py"
    script.write_text(JOB)
    s3.client.create_multipart_upload(Bucket=s3.bucket, Key="out.webm")  # of one killed before
    job = subprocess.Popen(
        [sys.executable, str(script), source, s3.url("out.webm")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert job.stdout is not None
    for _ in range(2):
        assert job.stdout.readline() == "chunk\n"
    family = psutil.Process(job.pid).children(recursive=True)
    os.kill(job.pid, sent)
    _, errors = job.communicate(timeout=60)
    _, left = psutil.wait_procs(family, timeout=30)
    assert left == []
    if sent == signal.SIGINT:
        assert (job.returncode, errors) == (130, "")
    assert "out.webm" not in s3.names()
    report = encode(source, s3.url("out.webm"), executor="sync", **OPTIONS)
    assert report.resumed_chunks >= 1
    assert s3.get("out.webm") == expected
    assert s3.names() == ["in/film.y4m", "out.webm"]
    assert s3.uploads() == []


# The command


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == code, result.output
    return result.stdout


def test_the_commands_take_urls(s3, source, expected, tmp_path):
    out = s3.url("out.webm")
    options = ["--executor", "sync", "-N", "4", "-x", "3", "--cpu-used", "8", "--json"]
    report = json.loads(run("encode", source, "-o", out, *options))
    assert report["output"] == out
    assert s3.get("out.webm") == expected
    (tmp_path / "out.webm").write_bytes(expected)
    local = str(tmp_path / "out.webm")
    assert run("decode", out, "--md5").split()[0] == run("decode", local, "--md5").split()[0]
    run("decode", out, "-o", s3.url("out.y4m"))
    run("decode", local, "-o", f"file://{tmp_path}/out.y4m")
    assert s3.get("out.y4m") == (tmp_path / "out.y4m").read_bytes()
    ours, theirs = json.loads(run("info", out)), json.loads(run("info", f"file://{local}"))
    assert ours | {"file": ""} == theirs | {"file": ""}
    assert json.loads(run("compare", source, out))["overall"]["ssim"]["y"] > 0.5


def test_a_job_on_objects_says_one_line(s3: stores.Store, source: str) -> None:
    """Dask, which the check of the output must not import before it is told to be quiet, says nothing."""
    options = ["-w", "2", "-x", "1", "-N", "12", "--no-scene-cuts", "--first-pass", "libvpx"]
    arguments = ["encode", source, "-o", s3.url("out.webm"), *options]
    done = subprocess.run(
        [sys.executable, "-m", "excamera_dask.cli", *arguments], capture_output=True, text=True
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1), done.stderr


def test_storage_needs_no_dask(s3: stores.Store) -> None:
    code = (
        "import sys; from excamera_dask.storage import checks, locate\n"
        f"checks.claim_object(locate({s3.url('out.webm')!r}))\n"
        "sys.exit(' '.join(m for m in ('dask', 'distributed') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_an_existing_object_is_not_overwritten_unasked(s3, source, capsys):
    s3.put("out.webm", b"precious")
    options = ["--executor", "sync", "-N", "4", "-x", "3", "--cpu-used", "8"]
    assert main(["encode", source, "-o", s3.url("out.webm"), *options]) == 1
    error = capsys.readouterr().err
    assert error == f"excamera: {s3.url('out.webm')}: exists already; -y overwrites it\n"
    assert s3.get("out.webm") == b"precious"
    run("encode", source, "-o", s3.url("out.webm"), "-y", *options)
    assert s3.get("out.webm") != b"precious"


def test_the_end_of_the_command_is_orderly(s3: stores.Store, tmp_path: Path) -> None:
    """A process that ends right after an answer of the store is not aborted by threads that still hold it."""
    arguments = ["encode", s3.url("absent.mp4"), "-o", str(tmp_path / "out.webm")]
    for _ in range(20):
        done = subprocess.run(
            [sys.executable, "-m", "excamera_dask.cli", *arguments], capture_output=True, text=True
        )
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
