"""Fences: read-your-writes on any replica without asking a peer.

A fence is a Redis string about one thing that readers cache: `graph:fence:{<user_id>}`, `tweet:fence:{<user_id>}`,
`user:fence:{<user_id>}`. "p<nonce>" (pending) says that it is being changed, "v<nonce>" names a version. A writer
replaces whatever is there by a pending mark before its COMMIT, and a version appears only where nothing is: so a
copy tagged with the version now in the fence was read after every commit.

A reader gets the fences with its window in one round trip (`fetch`) and asks `verdict`:
- the version that its copy is tagged with: the copy is current;
- another version: read the owner's primary, starting after the version was seen, and tag the copy with it;
- MISSING: note the time, read the primary, `establish`, and tag the copy with the version if that gives one;
- PENDING, or Redis did not answer: read the primary and keep no copy. Tagged copies are dropped with everything
  else when the notices are void (`notices.NoticeReader`): Redis lost its memory then.

Only SET and SET NX are used: repetition does no harm.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from typing import Final, TypeAlias

from services.runtime.clock import Clock, SystemClock
from services.runtime.nonces import Nonces
from services.runtime.rediscluster import RedisCluster
from services.runtime.redisroutes import Answer
from services.runtime.resp import CacheUnavailable, pack

PENDING_MS: Final = 10_000
"""Life of a pending mark: twice what a COMMIT may take before the mark is raised again."""
VERSION_MS: Final = 60_000
"""Life of a version: how long a copy is trusted at most when its writer cannot reach Redis and a reader can."""
SLOW_COMMIT: Final = 5.0
"""Seconds from the raising after which a COMMIT may have come too near to the end of the mark."""
FRESH: Final = 1.0
"""Seconds a reader may take from its start to the version; a mark outlives its COMMIT by much more, so the read came
after it.
"""


class Unversioned(Enum):
    """What a fence says when it names no version."""

    MISSING = "missing"
    PENDING = "pending"


MISSING: Final = Unversioned.MISSING
PENDING: Final = Unversioned.PENDING
Verdict: TypeAlias = "Unversioned | bytes"
"""The version, to be compared with the tag of a copy; or MISSING, or PENDING."""


def fetch(key: str | bytes) -> bytes:
    """The packed command whose answer `verdict` judges."""
    return pack("GET", key)


def verdict(answer: Answer) -> Verdict:
    """What a fence says; what cannot be understood or was not answered is as good as pending."""
    if answer is None:
        return MISSING
    return answer if isinstance(answer, bytes) and answer.startswith(b"v") else PENDING


class Fences:
    """Raises fences for writers and establishes versions for readers."""

    def __init__(self, redis: RedisCluster, clock: Clock | None = None) -> None:
        """The clock measures how long COMMITs and reads take."""
        again = redis.metrics.counter("chirp_fences_raised_again", "Fences raised again after COMMIT, by why.", ["why"])
        self._slow, self._gone = again.labels("slow"), again.labels("gone")
        self._failed = redis.metrics.counter("chirp_fences_not_raised", "Fences that could not be raised at once.")
        self._redis, self._clock, self._nonces = redis, clock or SystemClock(), Nonces()

    async def raise_(self, keys: Iterable[str]) -> None:
        """Marks the fences as pending for ten seconds. Where Redis does not answer it is counted and tried again in
        the background: the write goes on, since Postgres alone decides its success.
        """
        wanted = list(dict.fromkeys(keys))
        answers = await self._redis.scatter([(key, self._mark(key)) for key in wanted])
        for key, answer in zip(wanted, answers, strict=True):
            if answer != b"OK":
                self._failed.inc()
                self._redis.insist(key, lambda key=key: self._mark(key))

    @asynccontextmanager
    async def raised(self, keys: Iterable[str]) -> AsyncGenerator[None]:
        """Wraps a write up to and including its COMMIT; answer the caller after it, not within."""
        wanted, start = list(dict.fromkeys(keys)), self._clock.monotonic()
        await self.raise_(wanted)
        yield
        await self._confirm(wanted, self._clock.monotonic() - start)

    async def establish(self, key: str, started: float) -> bytes | None:
        """Gives a version to a fence that was MISSING when seen, after the primary was read.

        `started` is the clock's monotonic time before that read. None: the copy must not be tagged.
        """
        version = f"v{self._nonces.next()}"
        try:
            (reply,) = await self._redis.run(key, pack("SET", key, version, "NX", "PX", VERSION_MS))
        except CacheUnavailable:
            return None
        # Judged after the reply: a process may have been stopped before it sent the command.
        return version.encode() if reply == b"OK" and self._clock.monotonic() - started < FRESH else None

    async def _confirm(self, keys: Sequence[str], elapsed: float) -> None:
        """Raises fences again whose COMMIT was slow or whose mark is gone: Redis may have lost it before the COMMIT
        (flushed, evicted, failed over), and a reader may have established a version meanwhile from what it read
        before.
        """
        if elapsed > SLOW_COMMIT:
            self._slow.inc(len(keys))
            await self.raise_(keys)
            return
        answers = await self._redis.scatter([(key, fetch(key)) for key in keys])
        gone = [key for key, answer in zip(keys, answers, strict=True) if not _pending(answer)]
        if gone:
            self._gone.inc(len(gone))
            await self.raise_(gone)

    def _mark(self, key: str) -> bytes:
        return pack("SET", key, f"p{self._nonces.next()}", "PX", PENDING_MS)


def _pending(answer: Answer) -> bool:
    return isinstance(answer, bytes) and answer.startswith(b"p")
