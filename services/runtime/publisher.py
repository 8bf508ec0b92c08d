"""Publishes to JetStream in windows: many messages on the way, one inbox for all their acknowledgements.

Twice the rate of 64 concurrent `js.publish` calls, which each make an inbox, a future and a timer.
"""

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import nats.errors
from nats.aio.msg import Msg

from services.runtime.jetstream import MESSAGE_ID, Nats


class Outgoing(NamedTuple):
    """A message to publish. A stream drops it if it saw the same `message_id` in the last ten minutes."""

    subject: str
    payload: bytes
    message_id: str


class NotStored(Exception):
    """JetStream did not take a message: no stream for its subject, a stream that is full, no leader, no answer."""


class Publisher:
    """Publishes over one connection. One window at a time; the messages of a window arrive in its order."""

    def __init__(self, nats: Nats) -> None:
        self._nats = nats
        self._inbox = ""
        self._tokens = count()
        self._pending: dict[int, int] = {}
        self._failures: list[Exception | None] = []
        self._all_answered = asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def max_payload(self) -> int:
        """Bytes that the server takes for headers and payload together."""
        return self._nats.client.max_payload

    async def publish(self, window: Sequence[Outgoing], timeout: float = 5.0) -> list[Exception | None]:
        """For each message None once a stream holds it, or what prevented it; `timeout` seconds for the whole window.

        Never raises for a server that is away: then every entry says so. What timed out may be stored nevertheless.
        """
        async with self._turn:
            return await self._publish(window, timeout)

    async def _publish(self, window: Sequence[Outgoing], timeout: float) -> list[Exception | None]:
        self._failures = [NotStored("no answer from JetStream")] * len(window)
        self._pending.clear()
        self._all_answered.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._send(window)
                if self._pending:
                    await self._all_answered.wait()
        except TimeoutError:
            pass  # the entries not yet answered say so already
        except (nats.errors.Error, OSError) as error:
            self._failures = [failure and NotStored(repr(error)) for failure in self._failures]
        return self._failures

    async def _send(self, window: Sequence[Outgoing]) -> None:
        if not self._nats.connected:
            raise nats.errors.ConnectionClosedError
        publish = self._nats.client.publish
        inbox = self._inbox or await self._subscribe()
        for index, message in enumerate(window):
            token = next(self._tokens)
            self._pending[token] = index
            try:
                await publish(message.subject, message.payload, f"{inbox}.{token}", {MESSAGE_ID: message.message_id})
            except (nats.errors.BadSubjectError, nats.errors.MaxPayloadError) as error:
                self._answer(token, NotStored(repr(error)))

    async def _subscribe(self) -> str:
        inbox = self._nats.client.new_inbox()
        await self._nats.client.subscribe(f"{inbox}.*", cb=self._on_answer)
        self._inbox = inbox
        return inbox

    async def _on_answer(self, message: Msg) -> None:
        token = int(message.subject[len(self._inbox) + 1 :])
        if message.headers:
            self._answer(token, NotStored("no stream takes the subject"))
        elif b'"error"' in message.data:
            self._answer(token, NotStored(message.data.decode(errors="replace")))
        else:
            self._answer(token, None)

    def _answer(self, token: int, failure: Exception | None) -> None:
        index = self._pending.pop(token, None)
        if index is None:
            return
        self._failures[index] = failure
        if not self._pending:
            self._all_answered.set()
