"""Jobs on clusters whose workers come after the job has begun: these get work too."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import LocalCluster

from excamera_dask.graph import homes_of, window_of, window_spans
from excamera_dask.planning import Plan, make_plan
from executors import Executor
from executors.dask import DaskExecutor
from executors.growth import workers_to_come

GIGABYTE = 1 << 30


def film() -> Plan:
    return make_plan(6000, 6, 16, frame_bytes=1_400_000, cuts=(), separate=True)


def some(workers: int, foreseen: int | None, memory: int = 0) -> Any:
    """An executor as of somebody's cluster."""
    addresses = [f"tcp://host:{n}" for n in range(workers)]
    return SimpleNamespace(
        workers=max(1, workers), foreseen=foreseen, memory=memory, addresses=addresses, present=None
    )


def test_a_fleet_of_our_own_ties_nothing_to_those_who_came_first() -> None:
    fleet = some(8, 8)
    fleet.present, fleet.addresses = 2, fleet.addresses[:2]
    assert homes_of(fleet) == []
    fleet.present = 8
    assert homes_of(fleet) == fleet.addresses


@pytest.mark.parametrize("there", [0, 1, 3])
@pytest.mark.parametrize("to_come", [6, 8, 100])
def test_the_window_is_that_of_the_workers_who_are_to_come(there: int, to_come: int) -> None:
    memory = 2 * GIGABYTE
    grown = window_spans(film(), to_come, to_come * memory)
    assert window_of(film(), some(there, to_come, there * memory)) >= grown
    assert window_of(film(), some(to_come, to_come, to_come * memory)) == grown
    assert homes_of(some(there, to_come)) == [], "who comes late would get no loads"
    assert len(homes_of(some(to_come, to_come))) == to_come


def test_where_nobody_can_tell_who_comes_the_memory_that_is_there_is_the_limit() -> None:
    one = some(1, None, GIGABYTE)
    assert window_of(film(), one) > 5 * window_spans(film(), 1, GIGABYTE)
    assert window_of(film(), one) == window_spans(film(), 10_000, GIGABYTE)
    assert len(homes_of(one)) == 1


def test_what_clusters_tell_of_their_size() -> None:
    adaptive = SimpleNamespace(maximum=7)
    endless = SimpleNamespace(maximum=math.inf)
    assert workers_to_come(SimpleNamespace(target=5, plan={1})) == 5
    assert workers_to_come(SimpleNamespace(plan={"a", "b"}, _adaptive=None)) == 2
    assert workers_to_come(SimpleNamespace(plan={"a"}, _adaptive=adaptive)) == 7
    assert workers_to_come(SimpleNamespace(plan={"a"}, _adaptive=endless)) == 1
    assert workers_to_come(object()) == 0


def test_a_cluster_of_dasks_that_grows() -> None:
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        cluster.get_client() as client,
    ):  # fmt: skip
        executor: Executor = DaskExecutor(client)
        assert (executor.workers, executor.foreseen) == (1, 1)
        cluster.scale(3)
        assert executor.foreseen == 3
        cluster.adapt(minimum=0, maximum=6, interval="1h")
        assert executor.foreseen == 6
        client.cluster = None
        assert executor.foreseen is None
