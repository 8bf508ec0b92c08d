"""The receiving end of a JetStream pull consumer: one pull request kept open, what arrives kept in a buffer.

nats-py's own `fetch` makes a task, a timer and a UUID for each message (20 µs); this costs a quarter of that, and a
request that the server forgot is noticed by its missing heartbeats instead of by silence.
"""

import asyncio
import json
import time
from collections import deque
from types import TracebackType
from typing import Self

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from services.runtime.jetstream import Nats

_STATUS = "Status"
_HEARTBEAT = "100"
_ORDINARY_ENDS = ("404", "408")
_GLANCE = 1.0
"""Seconds after which a waiting worker looks whether the connection is still the one on which it asked."""


class Interrupted(Exception):
    """The consumer cannot be pulled from now: deleted, without a leader, or NATS is away."""


class Pull:
    """Receives for one durable consumer while entered. Only the task that entered it may call `take`."""

    def __init__(self, nats: Nats, stream: str, durable: str, batch: int, expires: float) -> None:
        """`batch`: messages of one request; `expires`: seconds that a request without messages stays open."""
        self._nats, self._batch = nats, batch
        self._heartbeat = expires / 5
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._request = json.dumps(
            {"batch": batch, "expires": int(expires * 1e9), "idle_heartbeat": int(self._heartbeat * 1e9)}
        ).encode()
        self._inbox = nats.client.new_inbox()
        self._subscription: Subscription | None = None
        self._awaited = 0
        self._connection = -1
        self._trouble = ""
        self._news = asyncio.Event()
        self._heard = time.monotonic()
        self.buffer: deque[Msg] = deque()
        """Received, not yet taken."""
        self.received = time.monotonic()
        """When a message last came; monotonic."""

    async def __aenter__(self) -> Self:
        self._subscription = await self._nats.client.subscribe(
            self._inbox, cb=self._on_message, pending_msgs_limit=0, pending_bytes_limit=0
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._subscription and not self._nats.client.is_closed:
            await self._subscription.unsubscribe()

    async def take(self) -> list[Msg]:
        """What has arrived, at most a batch; waits at most a second for the first and returns [] after that.

        Raises Interrupted where waiting longer is useless.
        """
        if not self.buffer:
            await self._wait()
        taken = [self.buffer.popleft() for _ in range(min(len(self.buffer), self._batch))]
        if len(self.buffer) < self._batch // 2:
            await self._pull_if_needed()
        return taken

    async def _wait(self) -> None:
        self._news.clear()
        await self._pull_if_needed()
        try:
            async with asyncio.timeout(min(2 * self._heartbeat, _GLANCE)):
                await self._news.wait()
        except TimeoutError:
            if time.monotonic() - self._heard > 2 * self._heartbeat:
                self._awaited = 0
        if self._trouble and not self.buffer:
            raise Interrupted(self._trouble)

    async def _pull_if_needed(self) -> None:
        if not self._nats.connected:
            raise Interrupted("NATS is away")
        if self._awaited > 0 and self._connection == self._nats.connection:
            return
        self._awaited, self._connection, self._trouble = self._batch, self._nats.connection, ""
        await self._nats.client.publish(self._subject, self._request, self._inbox)

    async def _on_message(self, message: Msg) -> None:
        self._heard = time.monotonic()
        status = message.headers.get(_STATUS) if message.headers else None
        if status == _HEARTBEAT:
            return
        if status is None:
            self._awaited -= 1
            self.received = self._heard
            self.buffer.append(message)
        else:
            self._awaited = 0
            if status not in _ORDINARY_ENDS:
                self._trouble = f"{status} {(message.headers or {}).get('Description', '')}"
        self._news.set()
