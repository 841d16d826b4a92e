"""Carries out what the fleet decides, and tells it what happens: Lambda's answers, control streams, the relay, the scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from distributed import Scheduler, SchedulerPlugin
from distributed.comm import Comm, listen
from distributed.core import Status

from executors.aws_lambda import invoker as lambda_answers
from executors.aws_lambda.blame import BlamingScheduler
from executors.aws_lambda.config import workers_config
from executors.aws_lambda.deploy.versions import mismatch
from executors.aws_lambda.fleet import Fleet, actions, events
from executors.aws_lambda.fleet.snapshot import headline
from executors.aws_lambda.fleet.states import AT_WORK, LIVE, State
from executors.aws_lambda.invoker import Invoker
from executors.aws_lambda.messages import (
    InvalidMessage,
    read_connected,
    read_message,
    read_versions,
)
from executors.aws_lambda.post_mortem import PostMortem
from executors.aws_lambda.second_runs import SecondRuns
from executors.rendezvous import Notice, RendezvousError, RendezvousSecurity

logger = logging.getLogger("distributed.excamera.coordinator")

MOVABLE = 0.6
"""Share of a worker's memory that data may take which others hand to it; beyond, Dask would spill it."""
MOVING = 10_000_000
"""Bytes a second with which data can be counted on to move."""
CLOSE_LOOK = 0.05
WORK_LOOK = 0.5
INQUESTS = frozenset({"lost", "expired"})
INQUEST_PAUSES = (0.5, 4.0, 15.0)
"""Seconds between looks into Lambda's logs, which lag behind."""
MOST_INQUESTS = 50
MAKE_PAYLOAD = Callable[[str], bytes]


_BEGIN = time.time() - time.monotonic()


def now() -> float:
    """Seconds since the epoch, by a clock that never goes back."""
    return _BEGIN + time.monotonic()


class Coordinator:
    """The server that launches the workers and controls them; `fleet` holds the logic, this does the talking.

    Everything happens in the event loop of the scheduler. versions: what workers' packages must be. on_notice hears lines
    for the user, on_stop the reason for which the fleet gave up, on_log the entries of the event log as they arise;
    post_mortem tells why workers were lost.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        scheduler: BlamingScheduler,
        invoker: Invoker,
        make_payload: MAKE_PAYLOAD,
        versions: Mapping[str, str],
        on_log: Callable[[list[actions.LogEntry]], None],
        on_notice: Callable[[str], None],
        on_stop: Callable[[str], None],
        post_mortem: PostMortem | None = None,
    ) -> None:
        self.fleet = fleet
        self._scheduler = scheduler
        scheduler.seen_running = self._seen_running
        self._invoker = invoker
        self._make_payload = make_payload
        self._versions = versions
        self._on_log, self._on_notice, self._on_stop = on_log, on_notice, on_stop
        self._post_mortem = post_mortem
        self.workers_config: dict[str, Any] = workers_config()
        """Dask's configuration for those that come from now on."""
        self.generation = 0
        """Times that Dask was told to restart its workers: environments that served before are not used again."""
        self._second_runs = SecondRuns(scheduler, self._is_idle, self._beaten)
        self._inquests = 0
        self._controls: dict[str, Comm] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[Any] = []
        self._lost_relays: set[str] = set()
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Begin to watch; `listen_at` lets workers in."""
        self._loop = asyncio.get_running_loop()
        self._scheduler.add_plugin(_Follower(self), name="excamera-fleet")
        self._spawn(self._watch_work())
        self._spawn(self._probe())

    async def listen_at(self, relay: str, name: str, security: RendezvousSecurity) -> None:
        """Listen for workers' control streams under `name` at a relay, and hear that relay's notices."""
        arguments = security.get_listen_args("scheduler")
        listener = listen(f"rdv://{relay}/{name}", self._serve, deserialize=False, **arguments)
        self._listeners.append(await listener)
        link = await security.link_to(relay)
        link.on_notice.append(self.relay_notice)
        link.on_state.append(lambda is_up: self._relay_state(relay, is_up))
        link.closed.add_done_callback(self._relay_given_up)

    def scale(self, workers: int) -> None:
        """Want so many workers from now on."""
        self.feed(events.TargetChanged(at=now(), workers=workers))

    def let_go(self, names: Iterable[str], workers: int) -> None:
        """Drain these, and want no more than so many workers from now on."""
        for name in names:
            one = self.fleet.get(name)
            if one is not None and one.state in LIVE:
                self.feed(events.Retire(name, "scaled down", lower_target=True, at=now()))
        self.scale(workers)

    async def close(self, reason: str, grace: float) -> None:
        """Tell all workers to exit and wait for them to be gone, `grace` seconds at most."""
        self._closing = True
        self.feed(events.Stop(at=now(), reason=reason, drain=False))
        end = time.monotonic() + grace
        while self._controls and time.monotonic() < end:
            await asyncio.sleep(CLOSE_LOOK)
        if self._timer is not None:
            self._timer.cancel()
        self._invoker.close()
        for task in list(self._tasks):
            task.cancel()
        for comm in list(self._controls.values()):
            comm.abort()
        for listener in self._listeners:
            listener.stop()

    # What happens

    def feed(self, event: events.Event) -> None:
        """Hand an event to the fleet and do what it wants done."""
        entries = []
        for action in self.fleet.handle(event, now()):
            if isinstance(action, actions.LogEntry):
                entries.append(action)
                if action.to in INQUESTS and self._post_mortem is not None:
                    self._spawn(self._inquire(str(action.invocation)))
            else:
                self._do(action)
        if entries:
            self._on_log(entries)
        self._set_timer()

    def relay_notice(self, notice: Notice) -> None:
        """What the relay says of a name: "registered", "gone" or "refused"."""
        name = notice.name
        if self.fleet.get(name) is None:
            return
        if notice.event == "registered":
            self.feed(events.LinkUp(at=now(), name=name))
        elif notice.event == "gone":
            task = self._scheduler.died_of(name)
            self.feed(events.LinkDown(at=now(), name=name, why=notice.why, task=task))
        elif notice.event == "refused":
            self.feed(events.Refused(at=now(), name=name, why=notice.why))

    def _relay_state(self, relay: str, is_up: bool) -> None:
        """Our own link to a relay is lost, or back."""
        before = bool(self._lost_relays)
        (self._lost_relays.discard if is_up else self._lost_relays.add)(relay)
        if bool(self._lost_relays) != before:
            self.feed(events.RelayBack(at=now()) if before else events.RelayLost(at=now()))

    def _relay_given_up(self, ended: asyncio.Future[RendezvousError | None]) -> None:
        """It does not come back: without it nobody can be told anything."""
        error = None if ended.cancelled() else ended.result()
        if error is not None and not self._closing and self.fleet.stopping is None:
            self._give_up(f"the connection to the rendezvous has ended: {error}")

    def follow_scheduler(self) -> None:
        """Dask's scheduler closes by itself after its `idle-timeout`, or when a client shuts it down: invoke nobody more."""
        if not self._closing and self.fleet.stopping is None:
            self._give_up("Dask's scheduler has closed: it was idle, or was shut down")

    def _give_up(self, reason: str) -> None:
        self.feed(events.Stop(at=now(), reason=reason, drain=False))
        self._on_stop(reason)

    async def _serve(self, comm: Comm) -> None:
        """One worker's control stream, from its first message to its end."""
        name = comm.peer_address.rpartition("/")[2]
        try:
            told = await comm.read()
            connected = read_connected(told, name)
            self._take_control(name, comm)
            self.feed(connected)
            self._check_versions(name, read_versions(told))
            one = self.fleet.get(name)
            if one is not None and one.state in LIVE:
                self._send(name, self._work())  # others have been told to leave
            while True:
                event = read_message(await comm.read(), name, now())
                if isinstance(event, events.Failed):
                    event = dataclasses.replace(event, task=self._scheduler.died_of(name))
                self.feed(event)
                self._second_runs.look()
        except OSError:
            pass  # the relay says why
        except InvalidMessage as error:
            logger.warning("%s said what no worker says: %s", name, error)
        finally:
            if self._controls.get(name) is comm:
                del self._controls[name]
            comm.abort()

    def _work(self) -> dict[str, Any]:
        """What kind of worker to be; the configuration as text, for lists must stay lists."""
        return {
            "op": "work",
            "config": json.dumps(self.workers_config),
            "storage": self.fleet.books.settings.ephemeral_storage << 20,
            "generation": self.generation,
        }

    def _take_control(self, name: str, comm: Comm) -> None:
        """The latest control stream of a worker is the one that counts."""
        before, self._controls[name] = self._controls.get(name), comm
        if before is not None:
            before.abort()

    def _check_versions(self, name: str, versions: dict[str, str]) -> None:
        wrong = mismatch(versions, self._versions, who=f"worker {name}")
        if wrong is not None:
            self.feed(events.Failed(at=now(), name=name, error=wrong))
            self._send(name, {"op": "exit", "reason": wrong})

    # What is to be done

    def _do(self, action: actions.Action) -> None:
        match action:
            case actions.Invoke():
                self._invoke(action.name)
            case actions.Drain():
                if self._scheduler.status == Status.running:  # which is asked where results go
                    self._send(action.name, {"op": "drain", "reason": action.reason})
            case actions.Exit():
                self._send(action.name, {"op": "exit", "reason": action.reason})
            case actions.Cut():
                self._cut(action.name)
            case actions.RetireFromScheduler():
                if action.outlived:
                    self._scheduler.blame_running(action.name)
                self._spawn(self._retire(action.name))
            case actions.RemoveFromScheduler():
                self._spawn(self._remove(action.name, action.blame))
            case actions.Speculate():
                logger.info("%s is slow at %s", action.name, action.key)
                self._second_runs.want(action.name, action.key)
            case actions.AskIdle():
                self._spawn(self._let_go(action.name))
            case actions.Notice():
                self._on_notice(action.text)
            case actions.StopAll():
                self._on_stop(action.reason)

    def _invoke(self, name: str) -> None:
        loop = self._loop
        assert loop is not None
        future = self._invoker.submit(lambda: self._make_payload(name))

        def answered(done: Any) -> None:
            if not done.cancelled():
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._answered, name, done.result())

        future.add_done_callback(answered)

    def _answered(self, name: str, outcome: lambda_answers.Outcome) -> None:
        event: events.InvocationEvent
        match outcome:
            case lambda_answers.Accepted(request_id):
                event = events.Invoked(name, request_id, at=now())
            case lambda_answers.Throttled(reason):
                event = events.InvokeThrottled(name, reason, at=now())
            case lambda_answers.Unsent(reason):
                event = events.InvokeUnsent(name, reason, at=now())
            case lambda_answers.Failed(reason, unanswered=True):
                event = events.InvokeUnanswered(name, reason, at=now())
            case lambda_answers.Failed(reason, fatal):
                event = events.InvokeRefused(name, reason, fatal, at=now())
        self.feed(event)

    def _send(self, name: str, message: dict[str, Any]) -> None:
        """Tell a worker something, if it listens."""
        comm = self._controls.get(name)
        if comm is not None:
            self._spawn(_write(comm, message))

    def _cut(self, name: str) -> None:
        comm = self._controls.pop(name, None)
        if comm is not None:
            comm.abort()
        self._spawn(self._remove(name, False))

    async def _retire(self, name: str) -> None:
        """Have results moved to other workers; then the worker may go. When all go there are none to move to."""
        if self._closing or self._scheduler.status != Status.running:
            return
        with contextlib.suppress(Exception):
            await asyncio.wait_for(
                self._scheduler.retire_workers(
                    names=[name], close_workers=False, remove=True, stimulus_id=f"retire-{name}"
                ),
                self.fleet.books.drain_timeout,
            )
        self.feed(events.Drained(at=now(), name=name))

    def _seen_running(self, name: str) -> list[str]:
        """Keys of the tasks that a worker said last that it runs."""
        one = self.fleet.get(name)
        return [] if one is None else [task.key for task in one.tasks.values() if not task.waiting]

    async def _remove(self, name: str, blame: bool) -> None:
        """Have the scheduler run a worker's tasks elsewhere; blame: it may be the fault of one of them."""
        address = self._scheduler.aliases.get(name)
        if address is not None:
            await self._scheduler.remove_worker(
                address, stimulus_id=f"remove-{name}", expected=not blame, close=False
            )

    def _may_go(self, name: str) -> bool:
        """Whether an idle worker holds no actor, and no only copy of anything that cannot be moved to those who stay."""
        workers = self._scheduler.workers
        ws = workers.get(self._scheduler.aliases.get(name, ""))
        if ws is None:
            return True
        if ws.processing or ws.actors:
            return False
        only = sum(task.nbytes for task in ws.has_what if len(task.who_has or ()) == 1)
        staying = [one for one in workers.values() if one is not ws and self._stays(str(one.name))]
        room = sum((MOVABLE * one.memory_limit or math.inf) - one.nbytes for one in staying)
        return only == 0 or only <= min(room, MOVING * self.fleet.books.drain_timeout)

    def _stays(self, name: str) -> bool:
        one = self.fleet.get(name)
        return one is not None and one.state in AT_WORK and not one.leaving

    async def _let_go(self, name: str) -> None:
        """One after the other: who was let go just now takes nothing from the next."""
        if self._may_go(name):
            self.feed(events.IdleMayGo(at=now(), worker=name))

    def _is_idle(self, name: str) -> bool:
        """Whether a worker stays, and its thread is free."""
        one = self.fleet.get(name)
        return one is not None and one.state is State.READY and not one.leaving

    def _beaten(self, name: str, key: str) -> None:
        """What a worker still does is done already: it goes when its results are elsewhere, and another comes."""
        one = self.fleet.get(name)
        task = None if one is None else one.tasks.get(key)
        if task is not None and not task.waiting:
            self.feed(events.Retire(at=now(), name=name, reason="slow"))

    async def _inquire(self, name: str) -> None:
        """Ask Lambda's logs why a worker is gone that did not say so itself; of many only the first are asked for."""
        one = self.fleet.get(name)
        if one is None or not one.log_stream or self._inquests >= MOST_INQUESTS:
            return
        self._inquests += 1
        assert self._post_mortem is not None and self._loop is not None
        for pause in INQUEST_PAUSES:
            await asyncio.sleep(pause)
            cause = await self._loop.run_in_executor(
                None, self._post_mortem.cause, one.log_stream, one.request_id or ""
            )
            if cause is not None:
                error, tail, billed = cause
                self.feed(
                    events.Failed(at=now(), name=name, error=error, log_tail=tail, billed=billed)
                )
                return

    async def _probe(self) -> None:
        """A function that cannot start at all is found out by running it once, while the first workers are on their way."""
        assert self._loop is not None
        wrong = await self._loop.run_in_executor(None, self._invoker.probe)
        if wrong is not None and self.fleet.stopping is None:
            self._give_up(wrong.reason)

    async def _watch_work(self) -> None:
        """A fleet that sent idle workers home grows again when tasks wait."""
        while True:
            await asyncio.sleep(WORK_LOOK)
            if self.fleet.stopping is None and self.fleet.target < self.fleet.asked:
                waiting = self._waiting_tasks() + self._second_runs.waiting
                if waiting:
                    self.feed(events.WorkArrived(at=now(), tasks=waiting))

    def _waiting_tasks(self) -> int:
        """Tasks that could run at once if there were workers."""
        scheduler = self._scheduler
        behind = (len(ws.processing) - ws.nthreads for ws in scheduler.workers.values())
        unheld = len(scheduler.queued) + len(scheduler.unrunnable)
        return unheld + sum(count for count in behind if count > 0)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.fleet.next_tick()
        if due is not None and self._loop is not None:
            delay = max(0.0, due - now())
            self._timer = self._loop.call_later(delay, self._tick)

    def _tick(self) -> None:
        self.feed(events.Tick(at=now()))

    def __repr__(self) -> str:
        return f"<Coordinator: {headline(self.fleet.snapshot())}>"

    def _repr_html_(self) -> str:
        return self.fleet.snapshot()._repr_html_()


class _Follower(SchedulerPlugin):
    """Dask lets its workers go when it restarts, and when it closes: then none comes back as it was, or none at all."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def restart(self, scheduler: Scheduler) -> None:
        self._coordinator.generation += 1

    async def before_close(self) -> None:
        self._coordinator.follow_scheduler()


async def _write(comm: Comm, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        await comm.write(message)
