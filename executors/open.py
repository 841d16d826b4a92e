"""Choose an executor from what a user wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from executors.base import Executor, WrongUse
from executors.dask_values import import_distributed

if TYPE_CHECKING:
    from distributed import Client

    from executors.same_install import Question


def open_executor(
    spec: str | Client | Executor,
    *,
    workers: int | None = None,
    memory_per_worker: int | None = None,
    warm_up: Callable[[], None] | None = None,
    same: Question | None = None,
    **options: Any,
) -> Executor:
    """Open "sync", "local", "lambda", a scheduler's address, or wrap a `distributed.Client`.

    workers: how many tasks "local" runs at once (default: by cores and memory); memory_per_worker: bytes that one task
    may need, by which "local" sizes itself; warm_up: a picklable function that each worker process calls once, beside
    its first tasks, so that what it loads is there when needed; same: a picklable function whose answer, versions by name,
    must be the same on a Dask cluster as here; options: of LambdaCluster, for "lambda" alone.

    Raises: InvalidExecutor, of which WrongUse is one.
    """
    if isinstance(spec, Executor):
        return spec
    import_distributed()
    if spec == "lambda":
        from executors.aws_lambda.executor import LambdaExecutor

        return LambdaExecutor(
            workers, memory_per_worker=memory_per_worker, warm_up=warm_up, **options
        )
    if options:
        raise WrongUse(f"{', '.join(options)}: only the lambda executor takes these")
    if spec == "sync":
        from executors.local import SyncExecutor

        if workers not in (None, 1):
            raise WrongUse(f"the sync executor has one worker, not {workers}: use local")
        return SyncExecutor()
    if spec == "local":
        from executors.local import LocalExecutor

        return LocalExecutor(workers, memory_per_worker=memory_per_worker, warm_up=warm_up)
    from executors.dask import DaskExecutor

    if workers is not None:
        raise WrongUse("a Dask cluster has its own workers: leave the number of workers out")
    if isinstance(spec, str):
        if "://" not in spec:
            raise WrongUse(
                f"unknown executor {spec!r}: use sync, local, lambda or an address such as tcp://host:8786"
            )
        return DaskExecutor.connect(spec, warm_up=warm_up, same=same)
    return DaskExecutor(spec, warm_up=warm_up, same=same)
