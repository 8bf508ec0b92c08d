"""Measuring floor and candidate alike: interleaved rounds, medians, ratios, CPU of server processes from /proc."""

import asyncio
import json
import os
import statistics
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

from loadtest.drive import Driven, Load

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Rate:
    """One round of one side."""

    per_second: float
    cpu_us: float = 0.0
    """CPU of the server processes per operation, in microseconds."""


@dataclass(frozen=True, slots=True)
class Result:
    """A line of the report."""

    name: str
    measured: str
    floor: str
    figure: float
    """What the target is about: mostly the ratio of medians."""
    target: float
    at_most: bool = False
    """Whether the figure may be at most, rather than must be at least, the target."""
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.figure <= self.target if self.at_most else self.figure >= self.target


Side = Callable[[], Awaitable[Rate]]


async def interleaved(sides: Mapping[str, Side], rounds: int) -> dict[str, Rate]:
    """Medians over rounds in which the sides take turns; a first round that warms up is not counted."""
    taken: dict[str, list[Rate]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            rate = await side()
            if number:
                taken[name].append(rate)
    return {name: median(rates) for name, rates in taken.items()}


def median(rates: Sequence[Rate]) -> Rate:
    """Each figure's own median."""
    return Rate(statistics.median(rate.per_second for rate in rates), statistics.median(rate.cpu_us for rate in rates))


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of processes with all their threads."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


async def driven(load: Load) -> Driven:
    """Runs the client process."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.drive", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate(json.dumps(asdict(load)).encode())
    if child.returncode:
        raise RuntimeError(f"the client of {load.method} ended with status {child.returncode}")
    return Driven(**json.loads(out))


def rpc_side(load: Callable[[], Load], pids: Sequence[int]) -> Side:
    """A side that is an RPC; any error of a call fails the measurement."""

    async def measure() -> Rate:
        before = cpu_seconds(pids)
        outcome = await driven(load())
        spent = cpu_seconds(pids) - before
        if outcome.errors or not outcome.calls:
            raise RuntimeError(f"{load().method}: {outcome.calls} calls, errors {outcome.errors}")
        return Rate(outcome.calls / outcome.seconds, spent / outcome.calls * 1e6)

    return measure


@asynccontextmanager
async def program(*arguments: str) -> AsyncGenerator[int]:
    """Runs `python -m …` until left; gives its pid once it has printed its first line."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        assert child.stdout is not None
        if not await child.stdout.readline():
            raise RuntimeError(f"python -m {' '.join(arguments)} did not start")
        yield child.pid
    finally:
        child.kill()
        await child.wait()


def compared(
    name: str,
    rates: Mapping[str, Rate],
    target: float,
    *,
    candidate: str = "chirp",
    floor: str = "floor",
    unit: str = "/s",
    note: str = "",
) -> Result:
    """A ratio of medians as a line."""
    above, below = rates[candidate], rates[floor]
    cpu = f", {above.cpu_us:,.0f} µs CPU" if above.cpu_us else ""
    floor_cpu = f", {below.cpu_us:,.0f} µs CPU" if below.cpu_us else ""
    return Result(
        name, f"{above.per_second:,.0f}{unit}{cpu}", f"{below.per_second:,.0f}{unit}{floor_cpu}",
        round(above.per_second / below.per_second, 3), target, note=note,
    )  # fmt: skip
