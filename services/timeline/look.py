"""One look at Redis: the top of a reader's window, the fences and the latest notice, in one round trip."""

from dataclasses import dataclass
from typing import TypeAlias

from services.runtime import notices
from services.runtime.clock import Clock
from services.runtime.notices import Cell, NoticeReader
from services.runtime.rediscluster import RedisCluster
from services.runtime.redisroutes import Answer, Key
from services.runtime.resp import CacheUnavailable, RedisError, key_slot, pack
from services.timeline import window
from services.timeline.generations import Generations
from services.timeline.window import Window

RENEWAL = 24 * 3_600.0
"""Seconds after which a process that still serves a reader renews the window's life of 30 days."""


Prepared: TypeAlias = "tuple[Cell, list[tuple[Key, bytes]]]"
"""The cell to read along with a home, and the packed commands of a look at it, each with its slot."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was there."""

    window: Window | None
    graph_fence: Answer
    tweet_fence: Answer


def graph_key(user_id: int) -> str:
    """The fence that graph raises when the user's follows change."""
    return f"graph:fence:{{{user_id}}}"


def tweet_key(user_id: int) -> str:
    """The fence that tweet raises when the user's tweets change."""
    return f"tweet:fence:{{{user_id}}}"


class Looker:
    """Looks at homes."""

    def __init__(self, redis: RedisCluster, reader: NoticeReader, clock: Clock) -> None:
        self.redis = redis
        self._reader, self._clock = reader, clock
        self._renewed: Generations[int, float] = Generations(200_000)
        self._prepared: Generations[tuple[int, int], Prepared] = Generations(20_000)

    async def look(self, user_id: int, count: int) -> Look:
        """The newest `count` entries of the user's window and what decides which copies are current.

        What was deleted since the last look is known to the listener when this returns. Raises CacheUnavailable.
        """
        cell, commands = self._prepared.get((user_id, count)) or self._prepare(user_id, count)
        if self._is_due(user_id):
            name = window.key(user_id)
            commands = [*commands, (name, pack("PEXPIRE", name, window.LIFE_MS))]
        entries, tail, versions, head = (await self.redis.scatter(commands))[:4]
        await self._reader.observe(cell, head)
        if isinstance(versions, CacheUnavailable | RedisError) or not isinstance(versions, list):
            raise versions if isinstance(versions, CacheUnavailable) else CacheUnavailable(str(versions))
        return Look(window.parse(entries, tail, count), *versions)

    def _prepare(self, user_id: int, count: int) -> "Prepared":
        """Packing five commands costs a fifth of a cached read, so it is done once per reader."""
        name = window.key(user_id)
        cell, slot = notices.cell_for(name), key_slot(name)
        prepared: Prepared = (
            cell,
            [
                (slot, pack("LRANGE", name, 0, count - 1)),
                (slot, pack("LINDEX", name, -1)),
                (slot, pack("MGET", graph_key(user_id), tweet_key(user_id))),
                (cell.slot, cell.head),
            ],
        )
        self._prepared.put((user_id, count), prepared)
        return prepared

    def _is_due(self, user_id: int) -> bool:
        """Whether this process has not renewed the window's life for a day."""
        now, renewed = self._clock.monotonic(), self._renewed.get(user_id)
        if renewed is not None and now - renewed < RENEWAL:
            return False
        self._renewed.put(user_id, now)
        return True
