"""Waiting for what other processes do, without sleeping longer than needed."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(check: Callable[[], T | Awaitable[T]], timeout: float = 10.0, interval: float = 0.02) -> T:
    """Calls the check until it returns something true, and returns that.

    An AssertionError of the check counts as "not yet"; after `timeout` seconds the last one is raised, or TimeoutError
    with the last value. Any other exception is raised at once.
    """
    deadline = time.monotonic() + timeout
    while True:
        failure: AssertionError | None = None
        outcome: object = None
        try:
            answer = check()
            outcome = await answer if inspect.isawaitable(answer) else answer
        except AssertionError as error:
            failure = error
        if failure is None and outcome:
            return outcome  # type: ignore[return-value]
        if time.monotonic() > deadline:
            raise failure or TimeoutError(f"not within {timeout} s; the last answer was {outcome!r}")
        await asyncio.sleep(interval)
