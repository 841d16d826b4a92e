"""What a job is expected to take: against schedules that can be counted by hand, and against a real encode."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from aws import Run, at, make_function
from hypothesis import given, settings
from hypothesis import strategies as st

import excamera_dask
from codec.frame import Image
from excamera_dask.estimate import (
    LAMBDA_START,
    MODEL,
    STAGES,
    TASK,
    Machine,
    estimate,
    lambda_machine,
    loaded_apart,
    read_model,
    seconds_a_megapixel,
)
from excamera_dask.formats.y4m import Y4mWriter
from excamera_dask.graph import Job
from excamera_dask.planning import Plan, make_plan
from excamera_dask.report import EncodeReport
from executors.aws_lambda.deploy.session import Place

MEGAPIXEL = SimpleNamespace(width=1000, height=1000, keyframes=np.array([0]))
ENCODE_ONLY = {"load": 0.0, "encode": 1.0, "final_state": 0.0, "replace": 0.0, "rebase": 0.0}


def plan(frames: int, chunk: int = 6, batch: int | None = 16) -> Plan:
    """A film of one megapixel a frame."""
    job = Job("job", MEGAPIXEL, None, 0.75)  # type: ignore[arg-type]
    return make_plan(frames, chunk, batch, frame_bytes=1_500_000, job=job)


def test_one_worker_does_all_in_turn() -> None:
    found = estimate(plan(60), Machine(1), ENCODE_ONLY)
    assert found.seconds == pytest.approx(60 + found.tasks * TASK, rel=0.01)
    assert found.stage_seconds == {**dict.fromkeys(STAGES, 0.0), "encode": 60.0}
    assert found.busy_seconds == 60.0


def test_as_many_workers_as_chunks_encode_at_once() -> None:
    found = estimate(plan(60, 6, 1), Machine(10), ENCODE_ONLY)
    assert found.seconds == pytest.approx(6, abs=100 * TASK)
    assert found.workers_used == 10
    assert estimate(plan(60, 6, 1), Machine(5), ENCODE_ONLY).seconds == pytest.approx(12, abs=0.1)


def test_more_workers_than_chunks_have_nothing_to_do() -> None:
    found = estimate(plan(60, 6, 1), Machine(100), ENCODE_ONLY)
    assert found.workers_used == 10
    assert found.worker_seconds == pytest.approx(100 * found.seconds)


def test_the_rebases_of_a_batch_run_one_after_another() -> None:
    model = {**dict.fromkeys(STAGES, 0.0), "rebase": 1.0}
    found = estimate(plan(96, 6, 16), Machine(1000), model)
    assert found.chain_seconds == 16 * 6
    assert found.seconds == pytest.approx(96, abs=200 * TASK)
    two = estimate(plan(96, 6, 8), Machine(1000), model)
    assert two.seconds == pytest.approx(8 * 6, abs=200 * TASK)


def test_a_hop_lengthens_each_link_of_the_chain() -> None:
    model = {**dict.fromkeys(STAGES, 0.0), "rebase": 1.0}
    near = estimate(plan(96), Machine(1000), model)
    far = estimate(plan(96), Machine(1000, hop=0.5), model)
    assert far.seconds - near.seconds == pytest.approx(16 * 0.5, abs=0.1)


def test_late_workers_help_late() -> None:
    two_bursts = Machine(2, start=3.0, burst=1, ramp=100.0)
    assert two_bursts.arrivals() == [3.0, 103.0]
    found = estimate(plan(12, 6, 1), two_bursts, ENCODE_ONLY)
    assert found.seconds == pytest.approx(3 + 12, abs=0.1)
    assert found.workers_used == 1


def test_a_part_of_a_processor_is_slower() -> None:
    whole, half = lambda_machine(10, 1769), lambda_machine(10, 884)
    assert half.speed == pytest.approx(0.5, abs=0.001)
    fast, slow = estimate(plan(60), whole, ENCODE_ONLY), estimate(plan(60), half, ENCODE_ONLY)
    assert slow.seconds - LAMBDA_START > 1.9 * (fast.seconds - LAMBDA_START)
    assert lambda_machine(10, 10240).speed == 1.0


def test_four_thousand_functions_come_in_four_bursts() -> None:
    arrivals = lambda_machine(4000, 1769).arrivals()
    assert sorted(set(arrivals)) == [LAMBDA_START + 10 * burst for burst in range(4)]
    assert arrivals.count(LAMBDA_START) == 1000


def test_far_workers_decode_from_the_key_frame_before_their_chunk() -> None:
    source = SimpleNamespace(width=1000, height=1000, keyframes=np.array([0, 20]))
    job = Job("job", source, None, 0.75)  # type: ignore[arg-type]
    made = make_plan(30, 6, 16, frame_bytes=1_500_000, job=job)
    model = {**dict.fromkeys(STAGES, 0.0), "load": 1.0}
    # chunks end at 6, 12, 18, 24, 30 and are entered at 0, 0, 0, 0 and 20
    found = estimate(loaded_apart(made), Machine(1), model)
    assert found.stage_seconds["load"] == 6 + 12 + 18 + 24 + 10


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 7),
    st.integers(1, 17) | st.none(),
    st.integers(1, 60),
    st.fixed_dictionaries({stage: st.floats(0, 2) for stage in STAGES}),
)
def test_no_schedule_beats_its_bounds(
    frames: int, chunk: int, batch: int | None, workers: int, model: dict[str, float]
) -> None:
    found = estimate(plan(frames, chunk, batch), Machine(workers), model)
    alone = estimate(plan(frames, chunk, batch), Machine(1), model)
    assert found.seconds >= found.busy_seconds / workers - 1e-6
    assert found.seconds <= alone.seconds + found.tasks * TASK + 1e-6
    assert found.workers_used <= workers


def test_the_model_says_how_it_was_measured() -> None:
    told = json.loads(MODEL.read_text())
    assert told["command"].startswith("python benchmarks/stage_seconds.py ")
    assert set(read_model()) == set(STAGES)
    assert all(seconds > 0 for seconds in read_model().values())


def test_the_film_of_an_hour_at_4k_is_estimated_soon() -> None:
    source = SimpleNamespace(width=3840, height=2160, keyframes=np.arange(0, 86400, 48))
    job = Job("job", source, None, 0.75)  # type: ignore[arg-type]
    made = loaded_apart(make_plan(86400, 6, 16, frame_bytes=12_441_600, job=job))
    found = estimate(made, lambda_machine(4000, 1769))
    assert found.workers_used > 2000
    assert found.seconds > found.chain_seconds


# A real encode


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames of moving noise, 320x240."""
    path = tmp_path_factory.mktemp("clip") / "clip.y4m"
    rng = np.random.default_rng(3)
    scene = rng.integers(0, 255, (40, 50), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with Y4mWriter(path, 320, 240, Fraction(25)) as writer:
        for number in range(24):
            y = np.ascontiguousarray(scene[number : number + 240, 2 * number : 2 * number + 320])
            writer.write(Image(y, y[::2, ::2].copy(), 255 - y[::2, ::2]))
    return path


@pytest.fixture(scope="module")
def report(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> EncodeReport:
    """Of a real encode of the clip, after one that loaded the kernels."""
    out = tmp_path_factory.mktemp("out") / "out.webm"
    excamera_dask.encode(clip, out, executor="sync", chunk_frames=3)
    return excamera_dask.encode(clip, out, executor="sync", chunk_frames=3)


def test_a_model_from_a_real_encode_gives_its_own_sums_back(
    clip: Path, report: EncodeReport
) -> None:
    model = seconds_a_megapixel(report)
    found = estimate(excamera_dask.plan(clip, chunk_frames=3), Machine(1), model)
    for stage in STAGES:
        assert found.stage_seconds[stage] == pytest.approx(
            report.stage_seconds.get(stage, 0.0), rel=1e-6
        )
    # what the model leaves out is little: opening, muxing, the scheduler between tasks
    assert found.busy_seconds <= report.seconds


def test_plan_is_json_where_nobody_looks(run: Run, clip: Path) -> None:
    code, out, _ = run("plan", clip, "-N", 3, "-x", 16, "-w", 2)
    assert code == 0
    told = json.loads(out)
    assert (told["frames"], told["chunks"], told["batches"], told["workers"]) == (24, 8, 1, 2)
    assert told["longest_chain"] == 8
    assert told["estimate"]["seconds"] > 0
    assert "cost" not in told


def test_plan_for_lambda_tells_dollars_without_asking_aws(
    run: Run, clip: Path, no_aws: None
) -> None:
    code, out, _ = run("plan", clip, "--executor", "lambda", "-w", 8, "--offline", "-N", 3)
    assert code == 0
    told = json.loads(out)
    assert told["problems"] == ["AWS was not asked (--offline)"]
    assert told["quota"] == {"needed": 8, "ramp_seconds": 0.0}
    expected = told["estimate"]["worker_seconds"] * 1769 / 1024 * 1.66667e-5
    (memory,) = (line for line in told["cost"]["lines"] if line["what"] == "Lambda memory")
    assert memory["dollars"] == pytest.approx(expected, rel=1e-4)


def test_plan_for_lambda_asks_what_is_deployed(run: Run, clip: Path, aws: Place) -> None:
    make_function(aws, MemorySize=3008, Architectures=["arm64"])
    code, out, _ = run("plan", clip, "--executor", "lambda", "-w", 8, *at(aws))
    assert code == 0
    told = json.loads(out)
    assert (told["memory"], told["region"]) == (3008, "eu-west-1")
    assert told["problems"] == [
        "function excamera does not tell its versions: run excamera lambda build && excamera lambda deploy"
    ]
    (memory,) = (line for line in told["cost"]["lines"] if line["what"] == "Lambda memory")
    assert memory["price"] == pytest.approx(1.33334e-5)


def test_plan_names_what_is_missing(run: Run, clip: Path, no_aws: None) -> None:
    code, out, _ = run("plan", clip, "--executor", "lambda")
    assert code == 0
    told = json.loads(out)
    assert told["workers"] == told["chunks"]
    assert told["problems"] == ["no AWS region chosen: give --region, or set AWS_REGION"]


def test_plan_as_text_tells_what_it_supposes(run: Run, clip: Path) -> None:
    code, out, _ = run("plan", clip, "--executor", "lambda", "-w", 8, "--offline", "--text")
    assert code == 0
    assert "lambda, 8 workers: about " in out
    assert "at most $0.0" in out
    assert "supposed: stages as measured on" in out


def test_a_probe_measures_the_film_itself(run: Run, clip: Path) -> None:
    code, out, err = run("plan", clip, "--probe", "-N", 3, "--text")
    assert code == 0
    assert "encoding 6 frames at 3 places" in err
    assert "supposed: stages as measured on a few frames of this film, on this machine" in out


def test_a_film_that_is_not_there_is_one_line(run: Run, tmp_path: Path) -> None:
    code, out, err = run("plan", tmp_path / "none.mkv")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("excamera: ")
