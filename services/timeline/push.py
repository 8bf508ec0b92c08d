"""One tweet into many homes: pushed, or, when it is late, the homes thrown away.

A push that lies in the list is allowed to be late by window.LATENESS at most, because readers rely on it. So a tweet older
than LATE is not pushed: its readers' homes are removed and built anew when read, which puts it in its place. The same is
done when a push took so long that it may have landed late. Homes of readers who have none cost nothing either way.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from services.runtime import ids
from services.runtime.clock import Clock
from services.runtime.consumer import Retry
from services.runtime.rediscluster import Grouped, RedisCluster
from services.runtime.redisroutes import Answer
from services.runtime.resp import RedisError, around_key, pack
from services.timeline import window
from services.timeline.metrics import TimelineMetrics
from services.timeline.progress import Outcome

LATE_MS = 5_000
"""Age from which a tweet is not pushed any more."""
AGAIN_SECONDS = 0.25
"""Until a push that Redis did not confirm is tried again."""
AT_ONCE = 4
"""Tweets being pushed at a time: enough to keep the nodes busy; more would only wait, and be late, in their queues."""
TRIMMED_AT_ONCE = 500
"""Lists, some 30 µs of Redis' time each."""
_UNLINK = around_key("UNLINK")


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of a tweet in some homes."""

    outcome: Outcome
    delivered: int
    inactive: int


class Pusher:
    """Writes to homes."""

    def __init__(self, redis: RedisCluster, clock: Clock, metrics: TimelineMetrics) -> None:
        self._redis, self._clock, self._metrics = redis, clock, metrics
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def push(self, tweet_id: int, homes: Grouped, *, extra: int = 0) -> Pushed:
        """Delivers to all homes; the last `extra` are not followers' and not counted. Raises Retry unless all confirmed."""
        async with self._turns:
            return await self._push(tweet_id, homes, extra)

    async def _push(self, tweet_id: int, homes: Grouped, extra: int) -> Pushed:
        if self._age_ms(tweet_id) > LATE_MS:
            return await self._throw_away(homes)
        replies = await self._redis.push(homes, *around_key("LPUSHX", tweet_id))
        if self._age_ms(tweet_id) > window.LATENESS_MS:
            return await self._throw_away(homes)
        await self._mend(homes, replies)
        counted = replies[: len(replies) - extra]
        inactive = counted.count(0)
        self._metrics.delivered.inc(len(counted) - inactive)
        self._metrics.inactive.inc(inactive)
        return Pushed(Outcome.PUSHED, len(counted) - inactive, inactive)

    async def _mend(self, homes: Grouped, replies: list[int | Exception]) -> None:
        """Trims what has grown, removes what is no list, raises Retry for what was not confirmed."""
        most = window.CAPACITY + window.SLACK
        if set(map(type, replies)) <= {int} and max(cast("list[int]", replies), default=0) <= most:
            return
        overgrown = [key for key, reply in zip(homes.keys, replies, strict=True) if _length(reply) > most]
        if overgrown:
            await self._trim(overgrown)
        broken = [key for key, reply in zip(homes.keys, replies, strict=True) if isinstance(reply, RedisError)]
        if broken:
            await self._redis.push(broken, *_UNLINK)
        if any(isinstance(reply, Exception) for reply in replies):
            raise Retry(AGAIN_SECONDS)

    async def _trim(self, keys: Sequence[bytes]) -> None:
        """Cuts lists back, a slice at a time, so that readers need not wait behind all of them; what is not cut now is cut next.

        The script is named by its hash; only a node that does not know it yet is sent the script itself.
        """
        for first in range(0, len(keys), TRIMMED_AT_ONCE):
            some = keys[first : first + TRIMMED_AT_ONCE]
            answers = await self._redis.scatter([(key, pack("EVALSHA", window.TRIM_SHA, 1, key, window.CAPACITY)) for key in some])
            unknown = [key for key, answer in zip(some, answers, strict=True) if _is_unknown_script(answer)]
            await self._redis.scatter([(key, pack("EVAL", window.TRIM, 1, key, window.CAPACITY)) for key in unknown])
        self._metrics.trimmed.inc(len(keys))

    async def _throw_away(self, homes: Grouped) -> Pushed:
        replies = await self._redis.push(homes, *_UNLINK)
        if any(isinstance(reply, Exception) for reply in replies):
            raise Retry(AGAIN_SECONDS)
        removed = sum(_length(reply) for reply in replies)
        self._metrics.invalidated.inc(removed)
        return Pushed(Outcome.INVALIDATED, 0, 0)

    def _age_ms(self, tweet_id: int) -> int:
        return self._clock.now_ms() - ids.time_ms(tweet_id)


def _is_unknown_script(answer: Answer) -> bool:
    return isinstance(answer, RedisError) and answer.code == "NOSCRIPT"


def _length(reply: int | Exception) -> int:
    return reply if isinstance(reply, int) else 0
