"""Limits of concurrency, and the queue of Event invocations: retries, ages, faults on purpose."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from local_lambda import HANDLER, TESTS, invoke, require_runtime, send, wait_for

require_runtime()

from executors.local_lambda import Faults, InvalidSettings, LocalLambda  # noqa: E402
from executors.local_lambda.admission import ACCOUNT, RATE, RESERVED, Admission  # noqa: E402
from executors.local_lambda.functions import EventConfig  # noqa: E402
from executors.local_lambda.retries import (  # noqa: E402
    AGE_EXCEEDED,
    RETRIES_EXHAUSTED,
    ZERO_CONCURRENCY,
    Attempts,
)

Start = Callable[..., LocalLambda]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server with a function `probe`."""
    running: list[LocalLambda] = []

    def begin(reserved: int | None = None, **settings: Any) -> LocalLambda:
        local = LocalLambda(**{"time_scale": 0.01, **settings}).start()
        running.append(local)
        local.create_function(
            "probe", HANDLER, code=TESTS, memory=256, timeout=10, reserved_concurrency=reserved
        )
        return local

    yield begin
    for local in running:
        local.stop()


def plain(local: LocalLambda) -> Any:
    """A client that does not try again."""
    return local.client(config=Config(retries={"total_max_attempts": 1}))


def refused(client: Any, **options: Any) -> dict[str, Any]:
    """The error of an Invoke that must be refused."""
    with pytest.raises(ClientError) as caught:
        client.invoke(FunctionName="probe", Payload=b"{}", **options)
    return dict(caught.value.response)


def settled(local: LocalLambda) -> dict[str, Any]:
    """The counts when nothing runs or waits any more."""

    def still() -> dict[str, Any] | None:
        stats = local.stats()
        return stats if stats["queued"] == stats["running"] == 0 else None

    return dict(wait_for(still, "the end of all invocations"))


# -- limits of concurrency ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reserved", "settings", "reason"),
    [
        (1, {}, RESERVED),
        (None, {"concurrency": 1}, ACCOUNT),
    ],
)
def test_a_request_above_the_limit_is_429(
    start: Start, reserved: int | None, settings: dict[str, Any], reason: str
) -> None:
    local = start(reserved, **settings)
    client = plain(local)
    send(client, "probe", "sleep", seconds=2)
    wait_for(lambda: local.stats()["running"] == 1, "the first invocation")
    error = refused(client)
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert error["Error"]["Code"] == "TooManyRequestsException"
    assert error["Reason"] == reason


def test_boto3_tries_a_throttled_request_again(start: Start) -> None:
    local = start()
    local.set_faults("probe", Faults(throttle=frozenset({1, 2})))
    assert invoke(local.client(), "probe")["count"] == 1
    assert local.stats()["throttles"] == 2


def test_events_above_the_limit_wait_and_all_run(start: Start) -> None:
    local = start(2)
    client = plain(local)
    for _ in range(8):
        send(client, "probe", "sleep", seconds=0.2)
    stats = settled(local)
    assert stats["succeeded"] == 8
    assert stats["peak_running"] == 2
    assert stats["throttles"] > 0 and stats["events_dropped"] == 0


def test_an_event_that_waits_too_long_is_dropped(start: Start) -> None:
    local = start(1)
    client = plain(local)
    client.put_function_event_invoke_config(FunctionName="probe", MaximumEventAgeInSeconds=60)
    send(client, "probe", "sleep", seconds=3)
    late = send(client, "probe")
    stats = settled(local)
    assert stats["succeeded"] == 1
    (dropped,) = stats["dropped"]
    assert dropped == {"function": "probe", "request_id": late, "condition": AGE_EXCEEDED}


def test_without_any_concurrency_an_event_is_dropped_at_once(start: Start) -> None:
    local = start(0)
    send(plain(local), "probe")
    assert settled(local)["dropped"][0]["condition"] == ZERO_CONCURRENCY


def test_an_event_of_a_deleted_function_is_dropped(start: Start) -> None:
    local = start(1)
    client = plain(local)
    send(client, "probe", "sleep", seconds=1)
    late = send(client, "probe")
    client.delete_function(FunctionName="probe")
    stats = settled(local)
    assert stats["succeeded"] == 1
    assert stats["dropped"] == [
        {"function": "probe", "request_id": late, "condition": "FunctionDeleted"}
    ]


def test_the_ramp_limits_cold_starts_only(start: Start) -> None:
    local = start(ramp=2, ramp_period=1e6)
    client = plain(local)
    for _ in range(2):
        send(client, "probe", "sleep", seconds=0.5)
    wait_for(lambda: local.stats()["running"] == 2, "two invocations")
    assert refused(client)["Reason"] == RATE
    settled(local)
    assert invoke(client, "probe")["count"] == 2  # a warm start


# -- retries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_function_error_is_retried(start: Start, retries: int) -> None:
    local = start()
    client = plain(local)
    if retries < 2:
        client.put_function_event_invoke_config(FunctionName="probe", MaximumRetryAttempts=retries)
    begun = time.monotonic()
    request_id = send(client, "probe", "fail")
    stats = settled(local)
    assert stats["function_errors"] == 1 + retries
    assert stats["dropped"] == [
        {"function": "probe", "request_id": request_id, "condition": RETRIES_EXHAUSTED}
    ]
    assert time.monotonic() - begun > sum((0.6, 1.2)[:retries])
    starts = [line for line in local.logs("probe") if line.startswith("START")]
    assert starts == [f"START RequestId: {request_id} Version: $LATEST"] * (1 + retries)


def test_the_end_of_a_runtime_is_retried_too(start: Start) -> None:
    local = start()
    local.set_faults("probe", Faults(kill={1: 0.3}))
    send(plain(local), "probe", "sleep", seconds=2)
    stats = settled(local)
    assert (stats["exit"], stats["killed"]) == (3, 3)


def test_the_delays_are_those_of_aws() -> None:
    attempts, config = Attempts(), EventConfig()
    throttles = [attempts.throttled(0.0, config, None) for _ in range(11)]
    assert throttles == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert [attempts.failed(0.0, config) for _ in range(3)] == [60, 120, RETRIES_EXHAUSTED]
    assert attempts.throttled(21_500.0, config, None) == AGE_EXCEEDED


@given(st.lists(st.booleans(), max_size=200), st.integers(60, 21_600))
def test_no_event_outlives_its_age(throttled: list[bool], age: int) -> None:
    attempts, config, now = Attempts(), EventConfig(age=age), 0.0
    for was_throttle in throttled:
        wait = (
            attempts.throttled(now, config, None) if was_throttle else attempts.failed(now, config)
        )
        if isinstance(wait, str):
            break
        now += wait
    assert now <= age
    assert attempts.errors <= 2


# -- admission ------------------------------------------------------------------------------------------------------


def test_reservations_are_kept_apart_from_the_rest() -> None:
    admission = Admission(1000, 10.0)

    def enter(name: str, reserved: int | None = None) -> str | None:
        return admission.enter(name, 0.0, cold=False, reserved=reserved, others={"b", "c"}, pool=2)

    assert [enter("a", 1), enter("a", 1)] == [None, RESERVED]
    assert [enter("b"), enter("c"), enter("b")] == [None, None, ACCOUNT]
    admission.leave("c")
    assert enter("b") is None
    assert (admission.running(), admission.peak) == (3, 3)


def test_the_ramp_fills_up_again() -> None:
    admission = Admission(10, 5.0)

    def cold(now: float) -> str | None:
        return admission.enter("a", now, cold=True, reserved=None, others=set(), pool=1000)

    assert [cold(0.0) for _ in range(11)] == [None] * 10 + [RATE]
    assert [cold(1.0) for _ in range(3)] == [None, None, RATE]
    assert [cold(100.0) for _ in range(11)] == [None] * 10 + [RATE]


# -- faults ---------------------------------------------------------------------------------------------------------


def test_faults_hit_the_calls_they_name(start: Start) -> None:
    local = start()
    client = plain(local)
    faults = Faults(
        duplicate=frozenset({1}),
        lose=frozenset({2}),
        delay={3: 0.5},
        throttle=frozenset({4}),
        server_error=frozenset({5}),
    )
    local.set_faults("probe", faults)
    begun = time.monotonic()
    sent = [send(client, "probe") for _ in range(3)]
    assert refused(client)["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert refused(client)["Error"]["Code"] == "ServiceException"
    stats = settled(local)
    counted = ("succeeded", "duplicated", "lost", "throttles", "server_errors")
    assert [stats[name] for name in counted] == [3, 1, 1, 1, 1]
    starts = [line.split()[2] for line in local.logs("probe") if line.startswith("START")]
    assert sorted(starts) == sorted([sent[0], sent[0], sent[2]])
    assert time.monotonic() - begun > 0.5  # the delayed one


def test_seeded_faults_are_always_the_same() -> None:
    first = Faults.seeded(7, 1000, lose=0.1, delay=0.2, delay_by=3.0)
    assert first == Faults.seeded(7, 1000, lose=0.1, delay=0.2, delay_by=3.0)
    assert first != Faults.seeded(8, 1000, lose=0.1, delay=0.2, delay_by=3.0)
    assert 60 < len(first.lose) < 140 and 150 < len(first.delay) < 250
    assert Faults.from_json(first.to_json()) == first
    with pytest.raises(InvalidSettings):
        Faults.seeded(7, 10, explode=0.5)
