"""No two ids are equal and each process issues them in order, whatever clocks, crashes, pauses and lost answers do."""

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chirp import errors
from chirp.errors import v1 as errorspb
from services.id import snowflake
from services.id.generator import Generator
from services.id.lease import AHEAD_MS, Lease
from services.id.store import Leased
from services.runtime import logs
from tests.stores.memory_leases import MemoryLeases

T = TypeVar("T")

WORKERS = 2
MACHINES = 3
START_MS = snowflake.EARLIEST_MS + 10**9


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs what never really waits: the store answers at once, and sleeping moves the clock."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("something waited")


class Time:
    """True time, which no process sees; the database's clock shows it."""

    def __init__(self) -> None:
        self.passed_ms = 0

    def now_ms(self) -> int:
        return START_MS + self.passed_ms


class Machine:
    """A machine with a wall clock that can be set, and whose process can be stopped between any two of its readings."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self.wrong_by_ms = 0
        self.stop_after: tuple[int, Callable[[], None]] | None = None

    def now_ms(self) -> int:
        return self._read(self._time.now_ms() + self.wrong_by_ms)

    def monotonic(self) -> float:
        return self._read(self._time.passed_ms / 1_000)

    def step(self, now_ms: int) -> None:
        self.wrong_by_ms = now_ms - self._time.now_ms()

    def stopped_here(self) -> None:
        """One reading of a clock, or one answer of the database, after which SIGSTOP may have come."""
        if self.stop_after:
            left, meanwhile = self.stop_after
            self.stop_after = (left - 1, meanwhile) if left else None
            if not left:
                meanwhile()

    def _read(self, value: T) -> T:
        self.stopped_here()
        return value


class DistantLeases:
    """The database as a process sees it: an answer may be late, or never come although the statement was executed."""

    def __init__(self, leases: MemoryLeases, machine: Machine) -> None:
        self._leases, self._machine = leases, machine
        self.answers_lost = 0

    async def take(self, owner: str, lease_ms: int, ahead_ms: int) -> Leased | None:
        return self._answer(await self._leases.take(owner, lease_ms, ahead_ms))

    async def renew(self, worker_id: int, owner: str, lease_ms: int, ahead_ms: int) -> int | None:
        return self._answer(await self._leases.renew(worker_id, owner, lease_ms, ahead_ms))

    async def release(self, worker_id: int, owner: str) -> None:
        self._answer(await self._leases.release(worker_id, owner))

    def _answer(self, answer: T) -> T:
        self._machine.stopped_here()
        if self.answers_lost:
            self.answers_lost -= 1
            raise errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "lost")
        return answer


class Process:
    """One life of the id service on a machine."""

    def __init__(self, name: str, machine: Machine, leases: MemoryLeases, time: Time) -> None:
        self._time, self.machine = time, machine
        self.leases = DistantLeases(leases, machine)
        self.generator = Generator(machine, self._sleep)
        self.lease = Lease(self.leases, self.generator, machine, name, logs.silent(), self._sleep)
        self.issued: list[int] = []

    def take(self, count: int) -> None:
        with contextlib.suppress(errors.Unavailable):
            self.issued += run(self.generator.take(count))

    def refresh(self) -> None:
        with contextlib.suppress(errors.Unavailable):
            run(self.lease.refresh())

    def release(self) -> None:
        with contextlib.suppress(errors.Unavailable):
            run(self.lease.release())

    async def _sleep(self, seconds: float) -> None:
        self._time.passed_ms += max(1, round(seconds * 1_000))


machines = st.integers(0, MACHINES - 1)
times = st.one_of(st.integers(0, 5), st.integers(0, 60), st.integers(0, 12_000))


class IdMachine(RuleBasedStateMachine):
    """Three machines, two worker ids."""

    @initialize()
    def start(self) -> None:
        self.time = Time()
        self.leases = MemoryLeases(WORKERS, self.time.now_ms)
        self.machines = [Machine(self.time) for _ in range(MACHINES)]
        self.lives = 0
        self.ended: list[Process] = []
        self.processes = [self._process(machine) for machine in self.machines]

    @rule(milliseconds=times)
    def time_passes(self, milliseconds: int) -> None:
        self.time.passed_ms += milliseconds

    @rule(on=machines, milliseconds=st.one_of(st.integers(-60, 60), st.integers(-4_000_000, 4_000_000)))
    def clock_is_set(self, on: int, milliseconds: int) -> None:
        self.machines[on].wrong_by_ms += milliseconds

    @rule(on=machines)
    def clock_is_right(self, on: int) -> None:
        self.machines[on].wrong_by_ms = 0

    @rule(on=machines, count=st.sampled_from((1, 1, 7, 5_000)))
    def ids_are_asked_for(self, on: int, count: int) -> None:
        self.processes[on].take(count)

    @rule(on=machines)
    def lease_is_refreshed(self, on: int) -> None:
        self.processes[on].refresh()

    @rule(on=machines)
    def process_ends(self, on: int) -> None:
        self.processes[on].release()
        self._restart(on)

    @rule(on=machines)
    def process_is_killed(self, on: int) -> None:
        self._restart(on)

    @rule(on=machines, answers=st.integers(1, 3))
    def answers_are_lost(self, on: int, answers: int) -> None:
        self.processes[on].leases.answers_lost = answers

    @rule(on=machines, readings=st.integers(0, 3), milliseconds=times, other=machines, asked=st.booleans())
    def process_is_stopped(self, on: int, readings: int, milliseconds: int, other: int, asked: bool) -> None:
        """SIGSTOP somewhere within the next thing it does; time passes, and another process works on."""

        def meanwhile() -> None:
            self.time.passed_ms += milliseconds
            if other != on:
                self.processes[other].refresh()
                self.processes[other].take(3)

        self.machines[on].stop_after = (readings, meanwhile)
        self.processes[on].take(2) if asked else self.processes[on].refresh()
        self.machines[on].stop_after = None
        self.processes[on].take(2)

    @invariant()
    def ids_differ_and_rise(self) -> None:
        if not hasattr(self, "processes"):
            return
        lives = self.ended + self.processes
        for process in lives:
            assert process.issued == sorted(set(process.issued))
        everything = [each for process in lives for each in process.issued]
        assert len(everything) == len(set(everything))

    @invariant()
    def no_id_is_far_ahead_of_true_time(self) -> None:
        latest = max((process.issued[-1] for process in getattr(self, "processes", []) if process.issued), default=0)
        if latest:
            assert snowflake.describe(latest).time_ms <= self.time.now_ms() + AHEAD_MS

    def _process(self, machine: Machine) -> Process:
        self.lives += 1
        return Process(f"life {self.lives}", machine, self.leases, self.time)

    def _restart(self, on: int) -> None:
        self.ended.append(self.processes[on])
        self.processes[on] = self._process(self.machines[on])


TestIdUniqueness = IdMachine.TestCase
TestIdUniqueness.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
