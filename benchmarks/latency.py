"""What a batch's length costs: seconds of a job that has all the workers it can use, and of the serial chain within.

    python benchmarks/latency.py [--size 1280x720] [--minutes 2] [--group 24]

The jobs are run through in thought (`excamera_dask/estimate.py`) with the seconds of `cost_model.json`, on functions of one
processor that are there from the start; no film is read. A batch's chain is, with hidden frames, the survey of a group, the key
frame and the skeleton's groups one after another; by the paper's method the rebases.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any, NamedTuple, cast

from excamera_dask.estimate import LAMBDA_HOP, Machine, estimate, read_model
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.graph import Job
from excamera_dask.groups import batches_of
from excamera_dask.planning import Plan, make_plan, make_skeleton_plan

RATE = 24
DISTANCES = (96, 240, 480)
CHUNK_FRAMES = 24
PAPER = (6, 16)


class Film(NamedTuple):
    """What an estimate asks of a source; it can be entered at every 48th frame."""

    width: int
    height: int
    keyframes: range


def hidden_plan(frames: int, distance: int, group: int) -> Plan:
    batches = list(batches_of(frames, distance, ()))
    return make_skeleton_plan(batches, [group] * len(batches), CHUNK_FRAMES, frame_bytes=1)


def measure(plan: Plan, film: Film) -> dict[str, Any]:
    job = Job("idle", cast(Any, film), FirstPassSettings(), 0.75)
    found = estimate(replace(plan, job=job), Machine(4 * len(plan.chunks), hop=LAMBDA_HOP))
    chain = found.chain_seconds
    if plan.groups:
        longest = max(group.end - group.before for group in plan.groups)
        chain += longest * read_model()["survey"] * film.width * film.height / 1e6
    frames = plan.frame_count // len(plan.batches)
    return {
        "frames_a_batch": frames,
        "seconds": round(found.seconds, 1),
        "chain_seconds": round(chain, 1),
        "chain_ms_a_frame": round(1000 * chain / frames, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What a batch's length costs in latency.")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--group", type=int, default=CHUNK_FRAMES, help="frames a group")
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    frames = int(given.minutes * 60 * RATE)
    film = Film(width, height, range(0, frames, 48))
    paper = make_plan(frames, *PAPER, frame_bytes=1, anchors=film.keyframes, separate=True)
    print(json.dumps({"method": list(PAPER), **measure(paper, film)}))
    for distance in DISTANCES:
        plan = hidden_plan(frames, distance, given.group)
        print(json.dumps({"key_distance": distance, **measure(plan, film)}))


if __name__ == "__main__":
    main()
