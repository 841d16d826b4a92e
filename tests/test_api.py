"""Whole encodes: the same bytes everywhere, key frames where asked, interrupted jobs go on."""

from __future__ import annotations

import json
import os
import signal
import struct
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
from distributed import Client, LocalCluster, get_task_stream

import codec
from codec.frame import Image
from excamera_dask import EncodedVideo, EncodeReport, ExcameraError, Settings, planning, stages
from excamera_dask.api import encode, plan, submit
from excamera_dask.errors import ContainerError, InvalidSetting, SourceChanged, SourceError
from excamera_dask.first_pass import FirstPassSettings, video_frame
from excamera_dask.formats.containers import read_packets
from excamera_dask.formats.ivf import is_key_frame, is_shown
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.progress import STAGES, ChunkDone, Event, Notice, StageCounts, Started
from excamera_dask.sources import open_source

WIDTH, HEIGHT, FRAMES = 80, 56, 23
OPTIONS: dict[str, Any] = {"chunk_frames": 4, "batch_chunks": 3, "cpu_used": 8, "passes": 1}
"""[4, 3]: 6 chunks in 2 batches, the last of 3 frames."""


def film(frames: int, width: int = WIDTH, height: int = HEIGHT) -> Iterator[Image]:
    """A textured square that moves over a textured ground."""
    rng = np.random.default_rng(7)
    ground = (rng.integers(0, 5, (height, width)) * 9 + np.arange(width) + 40).astype(np.uint8)
    square = rng.integers(90, 230, (16, 16), dtype=np.uint8)
    chroma = ((height + 1) // 2, (width + 1) // 2)
    for number in range(frames):
        luma = ground.copy()
        row, column = (3 + number) % (height - 16), (5 + 2 * number) % (width - 16)
        luma[row : row + 16, column : column + 16] = square
        yield Image(luma, np.full(chroma, 110 + number, np.uint8), np.full(chroma, 140, np.uint8))


def write_film(path: Path, frames: int = FRAMES, width: int = WIDTH, height: int = HEIGHT) -> Path:
    with Y4mWriter(path, width, height, Fraction(25)) as writer:
        for image in film(frames, width, height):
            writer.write(image)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "film.y4m")


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The output of the sync executor."""
    out = tmp_path_factory.mktemp("sync") / "out.webm"
    encode(source, out, executor="sync", **OPTIONS)
    return out.read_bytes()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def packets_of(path: Path) -> list[bytes]:
    return [packet.data for packet in read_packets(path)]


def key_frames(path: Path) -> list[int]:
    return [
        number
        for number, data in enumerate(filter(is_shown, packets_of(path)))
        if is_key_frame(data)
    ]


def decoded(path: Path) -> list[Image]:
    state, images = None, []
    for packet in packets_of(path):
        state, image = codec.decode(state, packet)
        if image is not None:
            images.append(image)
    return images


def no_leftovers(out: Path) -> bool:
    return [entry.name for entry in out.parent.iterdir() if entry.name != out.name] == []


@pytest.mark.parametrize("workers", [1, 2, 6])
def test_local_processes_give_the_same_bytes(source, expected, tmp_path, workers):
    out = tmp_path / "out.webm"
    report = encode(source, out, workers=workers, **OPTIONS)
    assert out.read_bytes() == expected
    assert (report.executor, report.workers) == ("local", workers)
    assert no_leftovers(out)


def test_a_cluster_gives_the_same_bytes(source, expected, tmp_path, client):
    for number, executor in enumerate((client, client.scheduler.address)):
        out = tmp_path / str(number) / "out.webm"
        out.parent.mkdir()
        encode(source, out, executor=executor, **OPTIONS)
        assert out.read_bytes() == expected
        assert no_leftovers(out)


def test_a_film_with_one_entry_is_read_on_by_one_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "SPAN_BYTES", 1 << 19)
    monkeypatch.setattr(planning, "LONGEST_WAY", 24)
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"g": "9999", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 160, 112, "yuv420p"
        for number, image in enumerate(film(140, 160, 112)):
            container.mux(stream.encode(video_frame(image, number)))
        container.mux(stream.encode(None))
    made = plan(path, **OPTIONS)
    following = {("load", span.first) for span in made.spans if span.follows}
    assert len(following) > 3
    with (
        dask.config.set({"distributed.scheduler.work-stealing": False}),
        LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
        get_task_stream(client) as tasks,
    ):
        encode(path, tmp_path / "out.webm", executor=client, **OPTIONS)
    where = {
        entry["worker"]
        for entry in tasks.data
        if isinstance(entry["key"], tuple)
        and (entry["key"][0].split("-")[0], entry["key"][1]) in following
    }
    assert len(where) == 1
    encode(path, tmp_path / "sync.webm", executor="sync", **OPTIONS)
    assert (tmp_path / "sync.webm").read_bytes() == (tmp_path / "out.webm").read_bytes()


def test_the_film_comes_out(source, tmp_path):
    out = tmp_path / "out.ivf"
    report = encode(source, out, executor="sync", cq_level=10, **OPTIONS)
    images = decoded(out)
    assert len(images) == report.frames == FRAMES
    for image, original in zip(images, film(FRAMES), strict=True):
        error = image.y.astype(int) - original.y
        assert 10 * np.log10(255**2 / (error**2).mean()) > 33


def test_one_key_frame_a_batch_and_where_asked(source, tmp_path):
    out = tmp_path / "out.webm"
    report = encode(source, out, executor="sync", **OPTIONS)
    assert key_frames(out) == [0, 12]
    assert (report.key_frames, report.batches, report.chunks) == (2, 2, 6)
    events: list[object] = []
    report = encode(
        source,
        out,
        executor="sync",
        key_frame_times=(0.2, 0.55, 99),
        on_event=events.append,
        **OPTIONS,
    )
    assert key_frames(out) == [0, 5, 14]
    (warning,) = report.warnings
    assert warning.startswith("no key frame at 99 s: no frame is there")
    assert Notice(warning, is_warning=True) in events
    assert report.frames == FRAMES


@pytest.mark.parametrize(("n", "x"), [(1, 4), (6, 1), (5, None), (100, 2)])
def test_any_n_and_x(source, tmp_path, n, x):
    out = tmp_path / "out.ivf"
    made = plan(source, chunk_frames=n, batch_chunks=x)
    encode(source, out, executor="sync", **OPTIONS | {"chunk_frames": n, "batch_chunks": x})
    assert key_frames(out) == made.key_frames
    assert len(decoded(out)) == FRAMES


def test_a_single_frame(tmp_path):
    out = tmp_path / "out.webm"
    assert encode(write_film(tmp_path / "one.y4m", 1), out, executor="sync").frames == 1
    assert key_frames(out) == [0]


def test_odd_sizes(tmp_path):
    out = tmp_path / "out.ivf"
    source = write_film(tmp_path / "odd.y4m", 7, 35, 17)
    encode(source, out, executor="sync", **OPTIONS | {"chunk_frames": 2})
    assert [image.y.shape for image in decoded(out)] == [(17, 35)] * 7


def test_hidden_frames_are_carried_through(tmp_path, vpxenc):
    source = write_film(tmp_path / "long.y4m", 40, 96, 80)
    out = tmp_path / "out.ivf"
    encode(
        source, out, executor="sync", encoder="vpxenc", passes=2, lag_in_frames=16, arnr_maxframes=5,
        chunk_frames=20, batch_chunks=2, cq_level=10,
    )  # fmt: skip
    hidden = [number for number, data in enumerate(packets_of(out)) if not is_shown(data)]
    assert [number > 21 for number in hidden].count(True) >= 1, "the rebased chunk has one"
    images = decoded(out)
    assert len(images) == 40
    for image, original in zip(images, film(40, 96, 80), strict=True):
        error = image.y.astype(int) - original.y
        assert 10 * np.log10(255**2 / (error**2).mean()) > 30


def test_skip_and_limit(source, tmp_path):
    out = tmp_path / "out.ivf"
    report = encode(source, out, executor="sync", skip=9, limit=7, **OPTIONS)
    assert report.frames == 7
    first = decoded(out)[0].u[0, 0]
    assert abs(int(first) - (110 + 9)) <= 2


def test_the_report(source, tmp_path):
    out = tmp_path / "out.webm"
    report = encode(source, out, executor="sync", **OPTIONS)
    said = json.loads(report.to_json())
    assert (said["frames"], said["width"], said["height"]) == (FRAMES, WIDTH, HEIGHT)
    assert set(said["stage_seconds"]) == set(STAGES) - {"survey", "skeleton", "code"}
    assert said["bytes"] == sum(map(len, packets_of(out)))
    assert said["settings"]["chunk_frames"] == 4
    assert said["settings"]["first_pass"]["cpu_used"] == 8
    assert said["versions"]["first_pass"]
    assert said["duration"] == pytest.approx(FRAMES / 25)
    assert "23 frames, 2 key frames" in str(report)


def test_events(source, tmp_path):
    events: list[Event] = []
    encode(source, tmp_path / "out.webm", executor="sync", on_event=events.append, **OPTIONS)
    started = [event for event in events if isinstance(event, Started)]
    chunks = [event for event in events if isinstance(event, ChunkDone)]
    counts = [event.counts for event in events if isinstance(event, StageCounts)]
    assert len(started) == 1
    assert started[0].plan.frame_count == FRAMES
    assert sorted(event.chunk for event in chunks) == list(range(6))
    assert chunks[-1].frames_done == FRAMES
    assert list(counts[-1]) == [stage for stage in STAGES if stage in counts[-1]]
    assert all(count.done == count.total for count in counts[-1].values())


class Interrupted(Exception):
    """Stands for Ctrl-C, a power cut, a full disk."""


def interrupt_after(chunks: int) -> Any:
    def listen(event: Event) -> None:
        if isinstance(event, ChunkDone) and event.chunks_done == chunks:
            raise Interrupted

    return listen


@pytest.mark.parametrize("done", [1, 2, 4, 5])
def test_an_interrupted_job_goes_on(source, expected, tmp_path, done):
    out = tmp_path / "out.webm"
    with pytest.raises(Interrupted):
        encode(source, out, executor="sync", on_event=interrupt_after(done), **OPTIONS)
    assert not out.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.webm.excamera"]
    events: list[Event] = []
    report = encode(source, out, executor="sync", on_event=events.append, **OPTIONS)
    assert out.read_bytes() == expected
    assert report.resumed_chunks == done
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert f"continuing an interrupted job: {done} of 6 chunks are done" in notices
    assert no_leftovers(out)


def test_damaged_and_foreign_leftovers_are_ignored(source, expected, tmp_path):
    out = tmp_path / "out.webm"
    with pytest.raises(Interrupted):
        encode(source, out, executor="sync", on_event=interrupt_after(4), **OPTIONS)
    with pytest.raises(Interrupted):
        encode(source, out, executor="sync", cq_level=60, on_event=interrupt_after(2), **OPTIONS)
    journals = list((tmp_path / "out.webm.excamera").iterdir())
    assert len(journals) == 2
    for kept in sorted(path for journal in journals for path in journal.glob("*.chunk"))[::2]:
        data = bytearray(kept.read_bytes())
        data[-1] ^= 1
        kept.write_bytes(data)
    for journal in journals:
        (journal / "00000099.chunk").write_bytes(b"foreign")
    encode(source, out, executor="sync", **OPTIONS)
    assert out.read_bytes() == expected
    assert no_leftovers(out)


def test_finished_chunks_that_were_swapped_are_made_again(source, expected, tmp_path):
    out = tmp_path / "out.webm"
    with pytest.raises(Interrupted):
        encode(source, out, executor="sync", on_event=interrupt_after(5), **OPTIONS)
    first, second = sorted((tmp_path / "out.webm.excamera").glob("*/*.chunk"))[:2]
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    encode(source, out, executor="sync", **OPTIONS)
    assert out.read_bytes() == expected
    assert no_leftovers(out)


def overwritten(path: Path, data: bytes) -> None:
    """In place, as a copy onto it does: an open file shows the new film."""
    with path.open("r+b") as file:
        file.write(data)


def overwritten_at_the_same_time(path: Path, data: bytes) -> None:
    """As tools do that restore a file's time with its content."""
    status = path.stat()
    overwritten(path, data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced_at_the_same_time(path: Path, data: bytes) -> None:
    status, other = path.stat(), path.with_name("other")
    other.write_bytes(data)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


WAYS = [overwritten, overwritten_at_the_same_time, replaced_at_the_same_time]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("done", [1, 3, 6])
def test_a_source_that_is_overwritten_in_mid_job_gives_no_output(source, tmp_path, done, way):
    film_, out = tmp_path / "film.y4m", tmp_path / "out.webm"
    film_.write_bytes(source.read_bytes())
    other = source.read_bytes()[:100] + bytes(source.stat().st_size - 100)

    def overwrite(event: Event) -> None:
        if isinstance(event, ChunkDone) and event.chunks_done == done:
            way(film_, other)

    with pytest.raises(SourceChanged, match="changed since it was opened"):
        encode(film_, out, executor="sync", on_event=overwrite, **OPTIONS)
    assert not out.exists()


@pytest.mark.parametrize("way", WAYS[1:])
def test_no_job_goes_on_with_another_film_of_the_same_time_and_size(source, tmp_path, way):
    film_, out = tmp_path / "film.y4m", tmp_path / "out.webm"
    film_.write_bytes(source.read_bytes())
    with pytest.raises(Interrupted):
        encode(film_, out, executor="sync", on_event=interrupt_after(3), **OPTIONS)
    way(film_, source.read_bytes()[:100] + bytes(source.stat().st_size - 100))
    assert encode(film_, out, executor="sync", **OPTIONS).resumed_chunks == 0


def test_a_job_is_not_disturbed_by_who_looks_after_its_source(source, expected, tmp_path):
    """A second name, other rights: the film is the same."""
    film_, out = tmp_path / "film.y4m", tmp_path / "out.webm"
    film_.write_bytes(source.read_bytes())

    def look_after(event: Event) -> None:
        if isinstance(event, ChunkDone) and event.chunks_done == 1:
            os.link(film_, tmp_path / "backup.y4m")
            film_.chmod(0o600)

    encode(film_, out, executor="sync", on_event=look_after, **OPTIONS)
    assert out.read_bytes() == expected


def test_a_job_can_be_told_not_to_go_on(source, expected, tmp_path):
    out = tmp_path / "out.webm"
    with pytest.raises(Interrupted):
        encode(source, out, executor="sync", on_event=interrupt_after(3), **OPTIONS)
    assert encode(source, out, executor="sync", resume=False, **OPTIONS).resumed_chunks == 0
    assert out.read_bytes() == expected


def test_a_failure_leaves_the_old_output(source, tmp_path):
    out = tmp_path / "out.webm"
    out.write_bytes(b"precious")
    with pytest.raises(Interrupted):
        encode(source, out, executor="sync", on_event=interrupt_after(1), **OPTIONS)
    assert out.read_bytes() == b"precious"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(source, expected, tmp_path):
    killed: list[int] = []

    def kill_one(event: Event) -> None:
        if isinstance(event, ChunkDone) and not killed:
            for child in psutil.Process().children(recursive=True):
                if "spawn_main" in " ".join(child.cmdline()) and not killed:
                    killed.append(child.pid)
                    os.kill(child.pid, signal.SIGKILL)

    out = tmp_path / "out.webm"
    encode(source, out, workers=6, on_event=kill_one, **OPTIONS)
    assert killed
    assert out.read_bytes() == expected


JOB = """
import sys
import time
from excamera_dask.api import encode
from excamera_dask.progress import ChunkDone

def listen(event):
    if isinstance(event, ChunkDone):
        print("chunk", flush=True)
        time.sleep(0.3)  # so that the signal comes while there is work left

if __name__ == "__main__":
    try:
        encode(sys.argv[1], sys.argv[2], workers=2, on_event=listen, chunk_frames=4, batch_chunks=3, cpu_used=8, passes=1)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_after_ctrl_c_or_kill_the_job_goes_on(source, expected, tmp_path, sent):
    script, out = tmp_path / "job.py", tmp_path / "to" / "out.webm"
    script.write_text(JOB)
    out.parent.mkdir()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(temporary)}
    job = subprocess.Popen(
        [sys.executable, str(script), str(source), str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment,
    )  # fmt: skip
    assert job.stdout is not None
    assert job.stdout.readline() == "chunk\n"
    family = psutil.Process(job.pid).children(recursive=True)
    os.killpg(job.pid, sent)
    _, errors = job.communicate(timeout=30)
    assert not psutil.wait_procs(family, timeout=10)[1]
    if sent == signal.SIGINT:
        assert (job.returncode, errors) == (130, "")
    assert [entry.name for entry in out.parent.iterdir()] == ["out.webm.excamera"]
    assert list(temporary.glob("excamera-*")) == []
    report = encode(source, out, executor="sync", **OPTIONS)
    assert report.resumed_chunks >= 1
    assert out.read_bytes() == expected
    assert no_leftovers(out)


def test_submit_gives_a_future_of_a_report(source, expected, tmp_path, client):
    out = tmp_path / "out.webm"
    report = submit(source, out, client=client, **OPTIONS).result(timeout=120)
    assert isinstance(report, EncodeReport)
    assert out.read_bytes() == expected
    assert report.output == str(out)


def test_submit_without_an_output_gives_the_file(source, expected, tmp_path, client):
    video = submit(source, client=client, **OPTIONS).result(timeout=120)
    assert isinstance(video, EncodedVideo)
    video.save(tmp_path / "saved.webm")
    assert (tmp_path / "saved.webm").read_bytes() == video.data == expected
    assert video.report.frames == FRAMES


def test_the_steps_one_by_one_on_a_client(source, tmp_path, client):
    described = open_source(source)
    first_pass = FirstPassSettings(passes=1, cpu_used=8).choose()
    do = client.submit
    pictures = [do(stages.load, described, start, 4) for start in (0, 4)]
    passes = [do(stages.encode, chunk, first_pass) for chunk in pictures]
    states = [do(stages.final_state, chunk) for chunk in passes]
    key = do(stages.replace_first, pictures[0], passes[0])
    first = do(stages.rebase, pictures[0], passes[0], states[0], key)
    replaced = do(stages.replace, pictures[1], passes[1], states[0])
    rebased = do(stages.rebase, pictures[1], passes[1], states[1], replaced, states[0], first)
    packets = first.result().packets + rebased.result().packets
    out = tmp_path / "out.ivf"
    encode(source, out, executor="sync", limit=8, **OPTIONS)
    assert list(packets) == packets_of(out)
    true = rebased.result().state.open(states[1].result().state)
    assert true == stages.state_after(packets)


def test_keeping_intermediates(source, tmp_path):
    keep = tmp_path / "kept"
    out = tmp_path / "out.webm"
    encode(source, out, executor="sync", keep=keep, **OPTIONS)
    names = {path.name for path in keep.iterdir()}
    assert {"00000000.first-pass.ivf", "00000000.final.ivf", "00000001.replaced.ivf"} <= names
    replaced = [packets_of(keep / f"{chunk:08d}.replaced.ivf")[0] for chunk in range(6)]
    assert [is_key_frame(data) for data in replaced] == [True, False, False, True, False, False]
    finals = [data for chunk in range(6) for data in packets_of(keep / f"{chunk:08d}.final.ivf")]
    assert finals == packets_of(out)


def test_a_plan_looks_before_it_leaps(source):
    made = plan(source, chunk_frames=4, batch_chunks=3, limit=20)
    assert str(made).startswith("[4, 3]: 20 frames, 5 chunks, 2 batches")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"chunk_frames": 0}, "chunk_frames is 0"),
        ({"batch_chunks": 1.5}, "batch_chunks is 1.5"),
        ({"limit": 0}, "limit is 0"),
        ({"skip": -1}, "skip is -1"),
        ({"kf_q_weight": 2}, "kf_q_weight is 2"),
        ({"cq_level": 64}, "cq_level is 64"),
        ({"encoder": "x264"}, "must be vpxenc or libvpx"),
        ({"key_frame_times": ("soon",)}, "give seconds"),
        ({"key_frame_times": (-1,)}, "times count from 0"),
        ({"colour": "red"}, "no such setting: colour"),
    ],
)
def test_bad_settings_are_refused(options, says):
    with pytest.raises(InvalidSetting, match=says):
        Settings.of(**options)


@pytest.mark.parametrize(
    "times", [(float("nan"),), (-1,), (float("inf"),), ("x",), "12", 5, (None,)]
)
def test_times_that_are_none_are_refused(times):
    for made in (
        lambda: Settings.of(key_frame_times=times),
        lambda: Settings(key_frame_times=times),
    ):
        with pytest.raises(InvalidSetting, match="key"):
            made()


def test_bad_sources_and_outputs_are_refused(source, tmp_path):
    with pytest.raises(SourceError, match="nothing to encode"):
        encode(source, tmp_path / "out.webm", skip=1000)
    with pytest.raises(SourceError):
        encode(tmp_path / "absent.mp4", tmp_path / "out.webm")
    with pytest.raises(ContainerError, match="must end in"):
        encode(source, tmp_path / "out.mp4")
    with pytest.raises(ContainerError, match="absent does not exist"):
        encode(source, tmp_path / "absent" / "out.webm")
    assert list(tmp_path.iterdir()) == []


def test_the_output_may_not_be_the_input(source, tmp_path):
    out = tmp_path / "out.webm"
    encode(source, out, executor="sync", **OPTIONS)
    with pytest.raises(ExcameraError, match="is the input"):
        encode(out, out, executor="sync")


def test_ivf_and_webm_hold_the_same_frames(source, tmp_path):
    for name in ("out.ivf", "out.webm"):
        encode(source, tmp_path / name, executor="sync", **OPTIONS)
    assert packets_of(tmp_path / "out.ivf") == packets_of(tmp_path / "out.webm")
    header = (tmp_path / "out.ivf").read_bytes()[:32]
    assert struct.unpack("<I", header[24:28]) == (FRAMES,)
