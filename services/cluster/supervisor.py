"""Runs a set of programs and steps: starts them in dependency order, each when what it needs is healthy, keeps them
running, and stops them in reverse."""

from __future__ import annotations

import asyncio
import graphlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

from services.cluster import logfiles
from services.cluster.child import Child, Reporter
from services.cluster.program import ClusterError, Program, Step, Unit

LOG_CHECK_INTERVAL = 5.0


class Supervisor:
    """Owns the children of one cluster; use it as an async context manager, or call `start` and `stop`."""

    def __init__(self, units: Sequence[Unit], logs: Path, environment: Mapping[str, str], reporter: Reporter) -> None:
        self._units = {unit.name: unit for unit in units}
        self._reporter = reporter
        self.children = {unit.name: Child(unit, logs, environment, reporter) for unit in units if isinstance(unit, Program)}
        self._log_keeper: asyncio.Task[None] | None = None
        self._check_needs()

    async def __aenter__(self) -> Supervisor:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, wanted: Iterable[str] | None = None) -> None:
        """Starts everything, or what is wanted and what that needs; ClusterError says what failed, the rest runs on."""
        names = self._with_needs(self._units if wanted is None else wanted)
        self._log_keeper = self._log_keeper or asyncio.create_task(self._bound_logs())
        # All ports before the first child: a taken one is told at once, and no child's connection can take another's.
        for name in names:
            if name in self.children:
                await self.children[name].reserve()
        try:
            await _in_order(names, lambda name: self._units[name].needs, self._start_unit)
        except BaseExceptionGroup as problem:
            raise _first_told(problem) or problem from None

    async def stop(self) -> None:
        """Stops the children, those first that nobody else needs."""
        if self._log_keeper is not None:
            self._log_keeper.cancel()
            self._log_keeper = None
        await _in_order(list(self._units), self._dependents, self._stop_unit)

    async def _start_unit(self, name: str) -> None:
        unit = self._units[name]
        if isinstance(unit, Step):
            await unit.run()
        else:
            await self.children[name].start()
            self._reporter.say(f"{name} is healthy")

    async def _stop_unit(self, name: str) -> None:
        child = self.children.get(name)
        if child is None:
            return
        ran = child.pid is not None
        await child.stop()
        if ran:
            self._reporter.say(f"{name} stopped")

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_INTERVAL)
            for child in self.children.values():
                await asyncio.to_thread(logfiles.bound, child.log)

    def _dependents(self, name: str) -> list[str]:
        return [unit.name for unit in self._units.values() if name in unit.needs]

    def _with_needs(self, wanted: Iterable[str]) -> list[str]:
        found: dict[str, None] = {}
        waiting = list(wanted)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = None
                waiting.extend(self._units[name].needs)
        return list(found)

    def _check_needs(self) -> None:
        for unit in self._units.values():
            if missing := set(unit.needs) - self._units.keys():
                raise ValueError(f"{unit.name} needs {', '.join(sorted(missing))}, which nobody provides")
        graphlib.TopologicalSorter({unit.name: unit.needs for unit in self._units.values()}).prepare()


async def _in_order(names: Sequence[str], after: Callable[[str], Iterable[str]], act: Callable[[str], Awaitable[None]]) -> None:
    """Acts on each name as soon as everything it comes after is done; independent ones at the same time."""
    done = {name: asyncio.Event() for name in names}

    async def one(name: str) -> None:
        for earlier in after(name):
            await done[earlier].wait()
        await act(name)
        done[name].set()

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(one(name))


def _first_told(problem: BaseExceptionGroup[BaseException]) -> ClusterError | None:
    return next((each for each in problem.exceptions if isinstance(each, ClusterError)), None)
