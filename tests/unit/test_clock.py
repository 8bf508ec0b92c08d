"""Clocks."""

import time

from services.runtime.clock import ManualClock, SystemClock


def test_the_system_clock_is_the_machines() -> None:
    clock = SystemClock()

    assert abs(clock.now_ms() - time.time() * 1000) < 1000
    assert abs(clock.monotonic() - time.monotonic()) < 1


def test_a_manual_clock_moves_when_told() -> None:
    clock = ManualClock()
    wall, monotonic = clock.now_ms(), clock.monotonic()

    clock.advance(1.5)
    assert (clock.now_ms(), clock.monotonic()) == (wall + 1500, monotonic + 1.5)
    clock.step(wall - 60_000)
    assert (clock.now_ms(), clock.monotonic()) == (wall - 60_000, monotonic + 1.5)
