"""How long the groups of each batch shall be: measured where the film is encoded, before the graph is made."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

import codec
from excamera_dask.groups import SHORTEST
from excamera_dask.sources import SourceInfo
from executors import Executor

LEAST_TO_CHOOSE = SHORTEST + 1
"""Frames of a batch up to which it is one group whatever is measured."""


def find_group_lengths(
    source: SourceInfo,
    batches: Sequence[tuple[int, int]],
    q_index: int,
    longest: int,
    executor: Executor,
) -> list[int]:
    """Frames a group, about and at most about `longest`, for each batch (its start and stop)."""
    found = [longest] * len(batches)

    def take(key: Any, result: int) -> None:
        found[key[1]] = result

    name = f"lengths-{secrets.token_hex(4)}"
    tasks: dict[Any, Any] = {
        (name, number): (_group_length, source, start, stop, q_index, longest)
        for number, (start, stop) in enumerate(batches)
        if stop - start > LEAST_TO_CHOOSE
    }
    if not tasks or longest <= SHORTEST:
        return found
    graph = HighLevelGraph({"lengths": MaterializedLayer(tasks)}, {"lengths": set()})
    executor.run(graph, list(tasks), take)
    return found


def _group_length(source: SourceInfo, start: int, stop: int, q_index: int, longest: int) -> int:
    codec.import_kernels()
    from excamera_dask.skeleton.lengths import group_length

    return group_length(source, start, stop, q_index, longest)
