"""Commits deletions: those that wait together in one statement, after every reader has been told."""

from collections.abc import Sequence
from typing import cast

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.clock import Clock, SystemClock
from services.runtime.coalesce import Coalescer
from services.runtime.fences import Fences
from services.runtime.idempotency import reused
from services.runtime.metrics import Metrics
from services.runtime.notices import Notices
from services.runtime.outbox import Bell
from services.tweet import events
from services.tweet.batch import once_each
from services.tweet.model import Claim, Removal, Stored, fence, not_found
from services.tweet.store import TweetStore

MAX_BATCH = 128
"""An announcement holds a thousand notices at most, and readers apply them one by one."""


class Remover:
    """The one committer of deletions of this process."""

    def __init__(
        self,
        store: TweetStore,
        fences: Fences,
        notices: Notices,
        bell: Bell,
        counts: events.Counts,
        metrics: Metrics,
        clock: Clock | None = None,
    ) -> None:
        self._store, self._fences, self._notices, self._bell, self._counts = store, fences, notices, bell, counts
        self._clock = clock or SystemClock()
        self._committer = Coalescer[Removal, bool](self._flush, "tweet_delete", metrics, max_batch=MAX_BATCH)

    async def delete(self, removal: Removal) -> bool:
        """Deletes, and says whether the tweet was deleted before; to a key that comes again, what it was told first.

        Raises NotFound, PermissionDenied (NOT_THE_AUTHOR), AlreadyExists for a key used otherwise, Unavailable.
        """
        return await self._committer.submit(removal)

    async def close(self) -> None:
        """Waits until everything that was submitted is answered."""
        await self._committer.close()

    async def _flush(self, removals: list[Removal]) -> Sequence[bool | Exception]:
        return await once_each(removals, self._commit, self._counts.delete_replayed)

    async def _commit(self, removals: list[Removal]) -> Sequence[bool | Exception]:
        """Raises only if nothing was deleted, or if that is unknown (Unavailable); deleting again does no harm."""
        tweets = await self._store.get({removal.tweet_id for removal in removals})
        refusals = [_refusal(removal, tweets.get(removal.tweet_id)) for removal in removals]
        allowed = [removal for removal, refusal in zip(removals, refusals, strict=True) if refusal is None]
        answers = iter(await self._deleted(allowed) if allowed else ())
        return [refusal or next(answers) for refusal in refusals]

    async def _deleted(self, removals: list[Removal]) -> Sequence[bool | Exception]:
        """Deletes tweets of the actors themselves."""
        now_ms = self._clock.now_ms()
        told = [events.deleted(removal.tweet_id, removal.actor_id, now_ms) for removal in removals]
        # Also of what was deleted before: whoever announced it first may have found Redis away.
        async with (
            self._notices.announced(deleted={removal.tweet_id for removal in removals}),
            self._fences.raised({fence(removal.actor_id) for removal in removals}),
        ):
            done = await self._store.delete(removals, told)
        self._bell.ring()
        self._counts.deleted(done.count(False), len(removals))
        return await self._replayed(removals, done) if None in done else cast("list[bool]", done)

    async def _replayed(self, removals: list[Removal], done: list[bool | None]) -> Sequence[bool | Exception]:
        """What was not deleted was deleted before under the same key, or the key was used for something else."""
        keys = [(each.actor_id, each.request_id) for each, answer in zip(removals, done, strict=True) if answer is None]
        claims = await self._store.replay(keys)
        return [
            self._repeated(removal, claims.get((removal.actor_id, removal.request_id))) if answer is None else answer
            for removal, answer in zip(removals, done, strict=True)
        ]

    def _repeated(self, removal: Removal, claim: Claim | None) -> bool | Exception:
        if claim is None:
            return errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "the request_id expired this moment")
        if claim.payload_hash != removal.payload_hash:
            return reused(removal.request_id)
        self._counts.delete_replayed()
        return claim.already_deleted


def _refusal(removal: Removal, tweet: Stored | None) -> errors.ServiceError | None:
    if tweet is None:
        return not_found(removal.tweet_id)
    if tweet.author_id != removal.actor_id:
        message = f"tweet {removal.tweet_id} is somebody else's"
        return errors.PermissionDenied(errorspb.ERROR_REASON_NOT_THE_AUTHOR, message, tweet_id=removal.tweet_id)
    return None
