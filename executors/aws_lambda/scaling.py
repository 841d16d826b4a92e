"""How many workers a cluster is to have: Dask's `scale` and `adapt`, by workers, cores or memory."""

from __future__ import annotations

import asyncio
import inspect
import math
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import dask.config
from dask.utils import parse_bytes
from distributed import Adaptive, Scheduler
from distributed.core import Status
from distributed.deploy.cluster import Cluster
from distributed.utils import NoOpAwaitable

from executors.aws_lambda.config import setting
from executors.aws_lambda.errors import InvalidOption, LambdaError
from executors.aws_lambda.option_values import check_names


class FleetAdaptive(Adaptive):
    """Leaves it to the cluster to let workers go: one that Dask closes first would be replaced."""

    async def scale_down(self, workers: Any) -> None:
        if workers:
            await self.cluster.scale_down(workers)  # type: ignore[attr-defined]


class ScalableCluster(Cluster):
    """Scaling as Dask's own clusters have it, on top of `_want` and `_want_fewer`.

    What is called in the cluster's event loop happens whether or not it is awaited.
    """

    _works: set[asyncio.Future[None]] = set()  # noqa: RUF012 - replaced, never changed
    """Kept, or they may be collected half-way."""

    @property
    @abstractmethod
    def worker_threads(self) -> int:
        """Tasks that one worker runs at once."""

    @property
    @abstractmethod
    def worker_memory(self) -> int:
        """Bytes of memory of one worker."""

    @property
    def room(self) -> float:
        """Workers that there can be at the most."""
        return math.inf

    @abstractmethod
    def _want(self, workers: int) -> Awaitable[None] | None:
        """Have so many workers from now on."""

    @abstractmethod
    def _want_fewer(self, names: set[str]) -> Awaitable[None] | None:
        """Do without these; their results go to others."""

    def scale(self, n: int = 0, memory: str | int | None = None, cores: int | None = None) -> Any:
        """Want `n` workers, or as many as have `memory` ("20 GB") or `cores` together, whatever is most.

        They come as Lambda allows, and surplus ones leave when their results are elsewhere. Adaptive scaling, where it is
        on, goes on. Raises: InvalidOption, LambdaError where the cluster is closed.
        """
        wanted: int = setting("n-workers", n)
        if memory is not None:
            wanted = max(wanted, math.ceil(_bytes("memory", memory) / self.worker_memory))
        if cores is not None:
            wanted = max(wanted, math.ceil(_positive("cores", cores) / self.worker_threads))
        return self._at_once(self._want, setting("n-workers", wanted))

    def scale_up(self, n: int) -> Any:
        """Dask's older name for it."""
        return self.scale(n)

    def scale_down(self, workers: Iterable[str]) -> Any:
        """Want fewer workers by those of these names."""
        return self._at_once(self._want_fewer, set(workers))

    def adapt(
        self,
        Adaptive: type[Adaptive] = FleetAdaptive,
        minimum: int | None = None,
        maximum: float | None = None,
        minimum_cores: int | None = None,
        maximum_cores: int | None = None,
        minimum_memory: str | int | None = None,
        maximum_memory: str | int | None = None,
        **options: Any,
    ) -> Adaptive:
        """Have Dask scale the cluster by the work there is, within bounds: workers, cores, memory ("20 GB") of all together.

        options: of `distributed.Adaptive`, and of `Scheduler.workers_to_close`. Raises: InvalidOption.
        """
        _check_names(Adaptive, options)
        configured = dask.config.get("distributed.adaptive")
        least: int = setting("n-workers", configured["minimum"] if minimum is None else minimum)
        most = min(self.room, _maximum(configured["maximum"] if maximum is None else maximum))
        if minimum_cores is not None:
            cores = _positive("minimum_cores", minimum_cores)
            least = max(least, math.ceil(cores / self.worker_threads))
        if minimum_memory is not None:
            memory = _bytes("minimum_memory", minimum_memory)
            least = max(least, math.ceil(memory / self.worker_memory))
        if maximum_cores is not None:
            most = min(most, _some("maximum_cores", maximum_cores, self.worker_threads, "cores"))
        if maximum_memory is not None:
            memory = _bytes("maximum_memory", maximum_memory)
            most = min(most, _some("maximum_memory", memory, self.worker_memory, "bytes"))
        if least > most:
            raise InvalidOption(f"at least {least} and at most {most:g} workers: that cannot be")
        return super().adapt(Adaptive=Adaptive, minimum=least, maximum=most, **options)

    def _at_once(self, work: Callable[[Any], Awaitable[None] | None], what: Any) -> Any:
        if not self.asynchronous:
            if self.status == Status.closed:
                raise LambdaError(f"{self.name} is closed: start another cluster")
            return self.sync(_awaited, work, what)
        waiting = work(what)
        if waiting is None:
            return NoOpAwaitable()
        task = asyncio.ensure_future(waiting)
        self._works = {task, *(each for each in self._works if not each.done())}
        return task


async def _awaited(work: Callable[[Any], Awaitable[None] | None], what: Any) -> None:
    waiting = work(what)
    if waiting is not None:
        await waiting


def _check_names(adaptive: type[Adaptive], options: dict[str, Any]) -> None:
    """A misspelt bound is none; whoever brings an Adaptive with keywords of its own knows them."""
    if adaptive.__init__ is Adaptive.__init__:
        known = {*inspect.signature(Adaptive.__init__).parameters}
        known |= {*inspect.signature(Scheduler.workers_to_close).parameters}
        try:
            check_names("adapt", options, known - {"self", "cluster", "kwargs"})
        except ValueError as error:
            raise InvalidOption(str(error)) from None


def _maximum(value: Any) -> float:
    return math.inf if value == math.inf else int(setting("n-workers", value))


def _positive(name: str, value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 <= found < math.inf:
        raise InvalidOption(f"{name} {value!r} is not possible: use a number")
    return found


def _bytes(name: str, value: Any) -> int:
    try:
        return int(parse_bytes(value))
    except (TypeError, ValueError):
        raise InvalidOption(f"{name} {value!r} is no amount of memory: use such as 20 GB") from None


def _some(name: str, value: Any, each: int, unit: str) -> int:
    """Workers that fit, at least one, or tasks would wait for ever."""
    found = math.floor(_positive(name, value) / each)
    if found < 1:
        raise InvalidOption(f"{name} {value} is less than one worker has ({each} {unit})")
    return found
