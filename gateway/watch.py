"""Watches over requests that take long: cancels those whose client leaves, and lets a stopping process cut off the rest."""

import asyncio
from types import TracebackType
from typing import Any

from chirp import errors
from chirp.errors import v1 as errorspb
from gateway.exchange import ClientGone, Exchange

UNWATCHED = 0.025
"""Seconds before anybody looks whether the client is still there: most requests end before, and cost no second task."""


class Watched:
    """The requests in progress that have lasted long enough to be watched, and all streams."""

    def __init__(self) -> None:
        self._in_progress: dict[Exchange, Watch] = {}

    def __len__(self) -> int:
        return len(self._in_progress)

    def over(self, exchange: Exchange, *, stream: bool) -> "Watch":
        """The watch to put around what may take long."""
        return Watch(self._in_progress, exchange, stream)

    def cut_off(self, *, streams: bool) -> None:
        """Ends the streams, or all other requests, that are still in progress; their clients are told UNAVAILABLE."""
        for exchange, watch in list(self._in_progress.items()):
            if watch.stream is streams and watch.task:
                exchange.cut_off = True
                watch.task.cancel()


class Watch:
    """Around the serving of one request. Leaving it turns our own cancellation into ClientGone or Unavailable."""

    __slots__ = ("_exchange", "_in_progress", "_timer", "_watcher", "stream", "task")

    def __init__(self, in_progress: dict[Exchange, "Watch"], exchange: Exchange, stream: bool) -> None:
        self._in_progress, self._exchange, self.stream = in_progress, exchange, stream
        self.task: asyncio.Task[Any] | None = None
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self.task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(0 if self.stream else UNWATCHED, self._begin)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._timer.cancel()
        if self._watcher:
            self._watcher.cancel()
            del self._in_progress[self._exchange]
        if isinstance(error, asyncio.CancelledError) and (self._exchange.gone or self._exchange.cut_off):
            raise self._withdrawn() from None

    def _begin(self) -> None:
        self._in_progress[self._exchange] = self
        self._watcher = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        await self._exchange.disconnected()
        if self.task:
            self.task.cancel()

    def _withdrawn(self) -> Exception:
        if self.task:
            self.task.uncancel()
        return ClientGone() if self._exchange.gone else stopping()


def stopping() -> errors.Unavailable:
    """What clients are told whose request the stopping process cuts off."""
    return errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "the gateway is stopping", retry_after=1)
