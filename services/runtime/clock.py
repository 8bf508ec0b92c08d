"""Time as a collaborator, so that tests decide what time it is."""

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for what is stored and shown, monotonic time for what is measured."""

    def now_ms(self) -> int:
        """Unix time in milliseconds; may step when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never steps back."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)
    """Seconds of CLOCK_MONOTONIC, the clock of the event loop too; the function itself, since every call asks it twice."""


class ManualClock:
    """A clock that moves only when a test moves it."""

    def __init__(self, now_ms: int = 1_704_067_200_000, monotonic: float = 1_000.0) -> None:
        """Starts at 2024-01-01T00:00Z, the epoch of the ids, unless told otherwise."""
        self._now_ms, self._monotonic = now_ms, monotonic

    def now_ms(self) -> int:
        """The wall time as last set or advanced."""
        return self._now_ms

    def monotonic(self) -> float:
        """The monotonic time as last advanced."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Lets time pass on both clocks."""
        self._now_ms += round(seconds * 1_000)
        self._monotonic += seconds

    def step(self, now_ms: int) -> None:
        """Sets the wall clock alone, as an administrator or NTP would; monotonic time does not notice."""
        self._now_ms = now_ms
