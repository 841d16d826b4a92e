"""Run graphs on Lambda functions: a cluster of them that is ended with the executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from distributed import Future
from distributed.protocol.pickle import dumps

from executors.aws_lambda.cluster import LambdaCluster
from executors.aws_lambda.errors import ClusterStopped, NotDeployed
from executors.base import (
    Graph,
    InvalidExecutor,
    InvalidResult,
    Key,
    OnCounts,
    OnResult,
    WorkerLost,
)
from executors.dask import WarmUp
from executors.growth import workers_to_come
from executors.own_cluster import OwnClusterExecutor
from executors.rendezvous.operations import take_plain_errors

DEFAULT_WORKERS = 100
LOCAL_WORKERS = 2


PLAIN = ["msgpack"]
"""How results travel here: a worker can do no more to this process than give a wrong one."""


class LambdaExecutor(OwnClusterExecutor):
    """`workers` invocations of one function; options are LambdaCluster's.

    Nothing that they send is unpickled here. Results are numbers, text, bytes, None, and collections of these;
    a list within one arrives as a tuple. A task's error is one of Python's classes, ours or the
    user's, or a plain one with its text.
    """

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
            partial(_start, count, **options),
            check=partial(_check_memory, needed=memory_per_worker),
            warm_up=warm_up,
        )
        backend = self.cluster.backend
        assert backend is not None
        self.name = "lambda" if backend.name == "aws" else f"lambda ({backend.name})"
        self._stopped: str | None = None
        self.cluster.on_stop(self._stop)

    def _register(self, plugin: WarmUp) -> None:
        """The workers' answers stay at the scheduler."""
        try:
            wrong = self.client.run_on_scheduler(
                load_everywhere, plugin=dumps(plugin), name=plugin.name
            )
        except Exception as error:
            wrong = [str(error)]
        if wrong:
            raise InvalidExecutor(f"a worker cannot load what its tasks need: {wrong[0]}")

    def _gather(self, ended: list[Future]) -> list[tuple[Key, Any]]:
        by_key = {future.key: future for future in self._finished(ended)}
        if not by_key:
            return []
        client: Any = self.client
        try:
            response = client.sync(client.scheduler.gather, keys=list(by_key), deserializers=PLAIN)
        except (TypeError, ValueError, LookupError, RecursionError) as error:
            raise InvalidResult(
                f"a result is more than numbers, text, bytes and collections of these: {error}"
            ) from error
        if response["status"] == "OK":
            return [(key, response["data"][key]) for key in by_key]
        self._await_again(by_key.pop(key) for key in response["keys"])
        assert self._done is not None
        for future in by_key.values():  # again with the next
            future.add_done_callback(self._done.put)
        return []

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


def _start(workers: int, **options: Any) -> LambdaCluster:
    cluster = LambdaCluster(workers, **options)
    take_plain_errors(cluster.scheduler)
    return cluster


async def load_everywhere(plugin: bytes, name: str, dask_scheduler: Any = None) -> list[str]:
    """Has workers load a plugin; what those say that cannot, unless they have gone. Runs on the scheduler."""
    dask_scheduler.worker_plugins[name] = plugin
    told = {"op": "plugin-add", "plugin": plugin, "name": name}
    answers = await dask_scheduler.broadcast(msg=told, on_error="return")
    wrong = {worker: _wrong(answer) for worker, answer in answers.items()}
    return [text for worker, text in wrong.items() if text and worker in dask_scheduler.workers]


def _wrong(answer: Any) -> str | None:
    """Why a worker cannot load a plugin; None where it can, or has broken off."""
    if isinstance(answer, OSError):
        return None
    if isinstance(answer, Exception):
        return str(answer)
    if not isinstance(answer, dict):
        return "it answers nonsense"
    return None if answer.get("status") == "OK" else str(answer.get("exception_text"))


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
