"""A home window made anew from the truth, in the request that needs it.

The building sentinel goes in first, the truth is read after it, and the result is appended only if the sentinel is still
there: a tweet committed meanwhile is in the read or is pushed onto the sentinel. One build per home at a time: within the
process by sharing the task, across replicas by the sentinel. What was pushed comes back with the append, so that a reader
who joined the build late misses nothing that was delivered before.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import cast

from services.runtime import ids
from services.runtime.call import Call
from services.runtime.clock import Clock
from services.runtime.rediscluster import RedisCluster
from services.runtime.resp import pack
from services.timeline import window
from services.timeline.facts import Facts
from services.timeline.metrics import TimelineMetrics
from services.timeline.truth import Truth
from services.timeline.window import Sentinel, Window

POLL_SECONDS = 0.02
POLLS = 15
"""A replica waits 0.3 s for another's build, then answers from the truth without keeping it."""
BUILD_SECONDS = 5.0
"""For reading the truth: it goes on when its reader leaves, but no longer than this."""

Sleep = Callable[[float], Awaitable[None]]


class Rebuilder:
    """Builds windows."""

    def __init__(
        self, redis: RedisCluster, truth: Truth, clock: Clock, metrics: TimelineMetrics, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._redis, self._truth, self._clock, self._metrics, self._sleep = redis, truth, clock, metrics, sleep
        self._running: dict[int, asyncio.Task[Window]] = {}

    async def window(self, call: Call, facts: Facts, wanting: Window | None) -> Window:
        """A window that serves these facts. `wanting`: the one that did not; one that is just being built will.

        Raises CacheUnavailable when Redis is away, and the owners' errors.
        """
        task = self._running.get(facts.viewer_id)
        if task is not None:
            shared = await asyncio.shield(task)
            if shared.sentinel.follow_revision >= facts.follow_revision:
                return shared
        nonce = wanting.sentinel.nonce if wanting is not None and wanting.sentinel.ready else 0
        task = asyncio.create_task(self._timed_build(call, facts, nonce))
        self._running[facts.viewer_id] = task
        task.add_done_callback(lambda done: self._finished(facts.viewer_id, done))
        return await asyncio.shield(task)

    def _finished(self, viewer_id: int, task: asyncio.Task[Window]) -> None:
        if self._running.get(viewer_id) is task:
            del self._running[viewer_id]
        if not task.cancelled():
            task.exception()  # marks it as seen: the reader may have left

    async def _timed_build(self, call: Call, facts: Facts, wanting: int) -> Window:
        with self._metrics.rebuilt.time():
            return await self._build(call, facts, wanting)

    async def _build(self, call: Call, facts: Facts, wanting: int) -> Window:
        nonce = random.getrandbits(31) | 1
        building = Sentinel(False, nonce, facts.follow_revision, 0, 0, self._clock.now_ms())
        other = await self._begin(call, facts, building, wanting)
        if other is not None:
            return other
        built = await self._from_truth(call, facts, nonce)
        pushed = await self._redis.script(
            window.FINISH, window.key(facts.viewer_id), building.encode(), built.sentinel.encode(), window.LIFE_MS, *built.ids
        )
        if not isinstance(pushed, list):
            return await self._from_truth(call, facts, 0)
        return replace(built, ids=(*map(int, cast("list[bytes]", pushed)), *built.ids))

    async def _begin(self, call: Call, facts: Facts, building: Sentinel, wanting: int) -> Window | None:
        """None once our sentinel stands; another builder's window if that came first; from the truth if it never comes."""
        name = window.key(facts.viewer_id)
        for _ in range(POLLS):
            tail = await self._redis.script(
                window.BEGIN, name, building.encode(), self._clock.now_ms(), wanting, window.BUILD_PATIENCE_MS,
                facts.follow_revision, window.BUILD_PATIENCE_MS * 2)  # fmt: skip
            if not isinstance(tail, bytes):
                return None
            sentinel = Sentinel.decode(tail)
            if sentinel is not None and sentinel.ready:
                found = await read_whole(self._redis, facts.viewer_id)
                if found is not None and found.sentinel.serves(facts.follow_revision, self._clock.now_ms()):
                    return found
            await self._sleep(POLL_SECONDS)
        return await self._from_truth(call, facts, 0)

    async def _from_truth(self, call: Call, facts: Facts, nonce: int) -> Window:
        """What the window should hold, read from the owners' primaries now."""
        now_ms = self._clock.now_ms()
        background = Call.background(self._clock, BUILD_SECONDS, call.request_id, facts.viewer_id)
        references = await self._truth.references(background, facts.sources, limit=window.CAPACITY)
        floor = references[-1].tweet_id - 1 if len(references) >= window.CAPACITY else 0
        shown = (item.tweet_id for item in references if facts.shows(item))
        built_id = ids.first_at(now_ms - window.LATENESS_MS)
        return Window(tuple(shown), Sentinel(True, nonce, facts.follow_revision, built_id, floor, now_ms), whole=True)


async def read_whole(redis: RedisCluster, user_id: int) -> Window | None:
    """The window as it lies in Redis, all of it; None if there is none. Raises CacheUnavailable."""
    name = window.key(user_id)
    (entries,) = await redis.run(name, pack("LRANGE", name, 0, -1))
    return window.parse(entries, None, 0)
