"""Tells the operator and run.json what the supervisor does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import psutil

from services.cluster.child import Child
from services.cluster.machine import Machine
from services.cluster.state import DemoUser, Phase, ProcessRecord, Record, StateFolder

KIND_BACKEND = "backend"


class Recorder:
    """The supervisor's reporter: lines go to `say_line`, facts to the state folder."""

    def __init__(self, folder: StateFolder, record: Record, machine: Machine, say_line: Callable[[str], None]) -> None:
        self.record = record
        self._folder = folder
        self._machine = machine
        self._say_line = say_line
        self._children: Mapping[str, Child] = {}
        self._born: dict[int, float] = {}

    def watch(self, children: Mapping[str, Child]) -> None:
        """The children to report on from now on."""
        self._children = children
        self.changed()

    def say(self, line: str) -> None:
        """One line for the operator."""
        self._say_line(line)

    def changed(self) -> None:
        """Some child's state changed."""
        self._update(processes=tuple(self._process(child) for child in self._children.values()))

    def enter(self, phase: Phase, problem: str = "") -> None:
        """The cluster as a whole changed; a problem says why it failed."""
        self._update(phase=phase, problem=problem)

    def demo_user(self, user: DemoUser) -> None:
        """There is a user to try things with."""
        self._update(demo_user=user)

    def _update(self, **changes: object) -> None:
        self.record = dataclasses.replace(self.record, **changes)  # pyright: ignore[reportArgumentType]
        self._folder.write(self.record)

    def _process(self, child: Child) -> ProcessRecord:
        pid = child.pid
        known = {each.name: each for each in self._machine.instances}
        instance = known.get(child.name)
        ports = child.program.ports
        address = f"127.0.0.1:{ports[0].number}" if ports else ""
        return ProcessRecord(
            name=child.name,
            kind=instance.process.kind.value if instance else KIND_BACKEND,
            state=child.state.value,
            restarts=child.restarts,
            pid=pid,
            born=self._birth(pid) if pid else 0.0,
            address=instance.address if instance else address,
            metrics=f"http://{instance.host}:{instance.metrics_port}/metrics" if instance else "",
        )

    def _birth(self, pid: int) -> float:
        if pid not in self._born:
            try:
                self._born[pid] = psutil.Process(pid).create_time()
            except psutil.Error:
                return 0.0
        return self._born[pid]
