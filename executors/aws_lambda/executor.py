"""Run graphs on Lambda functions: a cluster of them that is ended with the executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from executors.aws_lambda.cluster import LambdaCluster
from executors.aws_lambda.errors import ClusterStopped, NotDeployed
from executors.base import Graph, Key, OnCounts, OnResult, WorkerLost
from executors.growth import workers_to_come
from executors.own_cluster import OwnClusterExecutor

DEFAULT_WORKERS = 100
LOCAL_WORKERS = 2


class LambdaExecutor(OwnClusterExecutor):
    """`workers` invocations of one function; options are LambdaCluster's."""

    waits_for_workers = False  # the fleet does, and tells why

    def __init__(
        self,
        workers: int | None = None,
        *,
        memory_per_worker: int | None = None,
        warm_up: Callable[[], None] | None = None,
        **options: Any,
    ) -> None:
        count = workers or _default_workers(options)
        super().__init__(
            partial(LambdaCluster, count, **options),
            check=partial(_check_memory, needed=memory_per_worker),
            warm_up=warm_up,
        )
        backend = self.cluster.backend
        assert backend is not None
        self.name = "lambda" if backend.name == "aws" else f"lambda ({backend.name})"
        self._stopped: str | None = None
        self.cluster.on_stop(self._stop)

    def _stop(self, reason: str) -> None:
        self._stopped = reason
        self.fail(ClusterStopped(reason))

    def run(
        self,
        graph: Graph,
        keys: Sequence[Key],
        on_result: OnResult,
        on_counts: OnCounts | None = None,
    ) -> None:
        """As every executor; raises ClusterStopped when the fleet gives up, now or before."""
        if self._stopped is not None:
            raise ClusterStopped(self._stopped)
        try:
            super().run(graph, keys, on_result, on_counts)
        except WorkerLost as error:
            cause = self.cluster.last_failure()
            if cause is None:
                raise
            raise WorkerLost(f"{error}; the last one: {cause}") from error

    @property
    def cluster(self) -> LambdaCluster:
        """The cluster, to look at its coordinator."""
        assert isinstance(self._cluster, LambdaCluster)
        return self._cluster

    @property
    def workers(self) -> int:
        """Invocations wanted; those that are on their way count as well."""
        return max(1, self.cluster.target)

    @property
    def foreseen(self) -> int | None:
        return max(self.workers, workers_to_come(self.cluster))

    @property
    def memory(self) -> int:
        return self.workers * self.cluster.worker_memory

    def on_notice(self, listener: Callable[[str], None]) -> None:
        super().on_notice(listener)
        self.cluster.on_notice(listener)

    @property
    def present(self) -> int | None:
        coordinator = self.cluster.coordinator
        return None if coordinator is None else coordinator.fleet.workers

    @property
    def spent(self) -> float | None:
        coordinator = self.cluster.coordinator
        return None if coordinator is None else coordinator.fleet.spent


def _default_workers(options: dict[str, Any]) -> int:
    from executors.aws_lambda.config import setting

    configured = setting("n-workers")
    local = setting("backend", options.get("backend")) == "local"
    return configured or (LOCAL_WORKERS if local else DEFAULT_WORKERS)


def _check_memory(cluster: LambdaCluster, needed: int | None) -> None:
    if needed is not None and needed > cluster.worker_memory:
        raise NotDeployed(
            f"a worker of this job may need {needed >> 20} MB, the function has {cluster.worker_memory >> 20} MB: "
            "give it more (excamera lambda deploy --memory), or smaller chunks"
        )
