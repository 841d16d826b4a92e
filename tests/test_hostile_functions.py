"""What a function on Lambda that is somebody else's does to the client whose tasks it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest

from codec.errors import CodecError
from excamera_dask.cli.terminal.failures import FAILED, USAGE, explain
from excamera_dask.errors import InvalidSetting
from excamera_dask.storage.errors import StoreUnavailable
from executors.aws_lambda import LambdaExecutor
from executors.base import WrongUse

pytest.importorskip("awslambdaric", reason="needs AWS's runtime client: pip install awslambdaric")


def answer_with(exception: bytes, traceback: bytes) -> None:
    """A task that has its worker tell of an error in these words."""
    import distributed.worker
    from distributed.protocol.serialize import to_serialize

    def message(error: BaseException, status: str = "error") -> dict[str, Any]:
        return {
            "status": "error", "exception": to_serialize(exception), "traceback": to_serialize(traceback),
            "exception_text": "the text", "traceback_text": "",
        }  # fmt: skip

    distributed.worker.error_message = message
    raise ValueError


def nothing() -> None:
    pass


@pytest.mark.slow
@pytest.mark.parametrize("warm_up", [None, nothing])
def test_an_error_that_nobody_can_read_ends_its_run(warm_up: Callable[[], None] | None) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        with (
            LambdaExecutor(1, backend="local", warm_up=warm_up) as executor,
            pytest.raises(Exception, match="the text"),
        ):
            executor.run({"x": (answer_with, b"c__main__\nX\n", b"")}, ["x"], lambda *_: None)  # type: ignore[arg-type]
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.parametrize("kind", [InvalidSetting, WrongUse, OSError, StoreUnavailable, CodecError])
@pytest.mark.parametrize("text", ["", " \n"])
def test_an_error_without_words_is_named(kind: type[Exception], text: str) -> None:
    code, line = explain(kind(text))
    assert code in (FAILED, USAGE) and line == kind.__name__
