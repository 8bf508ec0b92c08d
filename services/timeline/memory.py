"""What this process remembers, told of what changed elsewhere: by notices with every read, by events in between."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from nats.aio.msg import Msg

from chirp import errors
from chirp.tweet import v1 as tweetpb
from services.runtime.jetstream import Nats
from services.timeline.catalogue import Catalogue
from services.timeline.facts import ReaderFacts
from services.timeline.recents import Recents

SUBJECTS = ("tweet.deleted.*", "user.updated.*")
CONNECT_SECONDS = 60.0
"""How long one wait for the first connection lasts; then the next begins."""


class Memory:
    """Drops copies. Notices are exact (services/runtime/notices.py); events are a second road, should Redis have been away."""

    def __init__(self, catalogue: Catalogue, facts: ReaderFacts, recents: Recents) -> None:
        self._catalogue, self._facts, self._recents = catalogue, facts, recents

    def on_delete(self, tweet_id: int) -> None:
        """A tweet is being deleted."""
        self._catalogue.suspect((tweet_id,))

    def on_pull(self, author_id: int) -> None:
        """An author's tweets are pulled from now on."""
        self._facts.on_pull(author_id)

    def on_void(self) -> None:
        """Notices may have been missed."""
        self._catalogue.clear()
        self._facts.clear()
        self._recents.clear()

    @asynccontextmanager
    async def listening(self, nats: Nats) -> AsyncGenerator[None]:
        """Takes events as they are published, from when NATS is there; a lost connection is resubscribed by the library."""
        task = asyncio.create_task(self._subscribe(nats), name="memory")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _subscribe(self, nats: Nats) -> None:
        while not nats.connected:
            with suppress(errors.Unavailable):
                await nats.ready(CONNECT_SECONDS)
        for subject in SUBJECTS:
            await nats.client.subscribe(subject, cb=self._on_event)

    async def _on_event(self, message: Msg) -> None:
        fact, owner = message.subject.rsplit(".", 1)
        if fact == "user.updated":
            self._catalogue.rename(int(owner))
        else:
            self._catalogue.suspect((tweetpb.TweetDeleted.FromString(message.data).tweet_id,))
