"""Commits new tweets: those that wait together in one statement, with one call to each peer for all of them."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.graph import v1 as graphpb
from chirp.id import v1 as idpb
from services.runtime.call import Call
from services.runtime.clock import Clock, SystemClock
from services.runtime.coalesce import Coalescer
from services.runtime.fences import Fences
from services.runtime.idempotency import reused
from services.runtime.logs import Log
from services.runtime.metrics import Metrics
from services.runtime.outbox import Bell
from services.tweet import events
from services.tweet.batch import once_each
from services.tweet.model import Claim, Draft, Stored, fence, gone, not_found
from services.tweet.store import IdInUse, TweetStore

PATIENCE = 1.0
"""Seconds that id and graph get to answer: the callers of a whole batch wait for them."""
LINGER_SECONDS = 0.003
"""A batch asks two peers, Redis and Postgres, some 600 µs of CPU whatever its size: with 64 posting at once the wait makes
batches of dozens instead of seven."""
MAX_BATCH = 256
"""Beyond it a statement takes longer and a tweet hardly costs less."""


class Peers(NamedTuple):
    """Whom a tweet needs before it can be committed."""

    ids: "idpb.IdServiceAsyncStub"
    graph: "graphpb.GraphServiceAsyncStub"


class Prepared(NamedTuple):
    """What a batch needs to know before its statement."""

    ids: Sequence[int]
    pulls: dict[int, bool]
    """By author."""
    parents: dict[int, Stored]
    """Tweets and tombstones by id."""


class Writer:
    """The one committer of new tweets of this process."""

    def __init__(
        self,
        store: TweetStore,
        peers: Peers,
        fences: Fences,
        bell: Bell,
        counts: events.Counts,
        metrics: Metrics,
        log: Log,
        clock: Clock | None = None,
    ) -> None:
        self._store, self._peers, self._fences, self._bell, self._counts = store, peers, fences, bell, counts
        self._log, self._clock = log, clock or SystemClock()
        self._committer = Coalescer[Draft, Stored](self._flush, "tweet_create", metrics, max_batch=MAX_BATCH, linger=LINGER_SECONDS)

    async def create(self, draft: Draft) -> Stored:
        """The tweet, once it is committed; that of the first request when its key comes again, as it was answered then.

        Raises AlreadyExists for a key used otherwise, NotFound for a parent that is missing or deleted, Unavailable
        when it is unknown or certain that nothing was written: to be repeated under the same key.
        """
        return await self._committer.submit(draft)

    async def close(self) -> None:
        """Waits until everything that was submitted is answered."""
        await self._committer.close()

    async def _flush(self, drafts: list[Draft]) -> Sequence[Stored | Exception]:
        return await once_each(drafts, self._commit, self._counts.create_replayed)

    async def _commit(self, drafts: list[Draft]) -> Sequence[Stored | Exception]:
        """Raises only if nothing was written, or if that is unknown (Unavailable)."""
        rows = await self._written(drafts)
        unmade = [draft for draft, row in zip(drafts, rows, strict=True) if row is None]
        made = [row for row in rows if row is not None]
        if made:
            self._bell.ring()
            self._counts.created(made)
        reasons = iter(await self._reasons(unmade) if unmade else ())
        return [next(reasons) if row is None else row for row in rows]

    async def _written(self, drafts: list[Draft]) -> list[Stored | None]:
        """The tweets that were committed, between raising the fences of their authors and making sure of them."""
        preparing = asyncio.create_task(self._prepare(drafts))
        rows: list[Stored | None] | None = None
        try:
            async with self._fences.raised({fence(draft.actor_id) for draft in drafts}):
                rows = await self._insert(drafts, await preparing)
        except Exception as error:
            # Raising after the commit would have the coalescer commit the tweets again.
            if rows is None:
                raise
            self._log.error("fences could not be confirmed", exc_info=error)
        finally:
            preparing.cancel()
        return rows

    async def _prepare(self, drafts: list[Draft]) -> Prepared:
        answered = {draft.in_reply_to_tweet_id for draft in drafts} - {0}
        try:
            ids, pulls, parents = await asyncio.gather(
                self._ids(len(drafts)),
                self._pulls({draft.actor_id for draft in drafts}),
                self._store.get(answered) if answered else _nothing(),
            )
        except errors.Unavailable:
            raise
        except errors.ServiceError as error:
            message = "ids or delivery plans cannot be had at the moment; nothing was written"
            raise errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, message, retry_after=0.5) from error
        return Prepared(ids, pulls, parents)

    async def _ids(self, count: int) -> Sequence[int]:
        call = Call.background(self._clock, PATIENCE)
        return (await self._peers.ids.GenerateIds(idpb.GenerateIdsRequest(count=count), **call.onward())).ids

    async def _pulls(self, author_ids: set[int]) -> dict[int, bool]:
        call = Call.background(self._clock, PATIENCE)
        request = graphpb.PlanDeliveryRequest(author_ids=author_ids)
        reply = await self._peers.graph.PlanDelivery(request, **call.onward())
        return {plan.author_id: plan.pull for plan in reply.items}

    async def _insert(self, drafts: list[Draft], prepared: Prepared) -> list[Stored | None]:
        try:
            return await self._insert_once(drafts, prepared)
        except IdInUse:
            self._counts.collided()
            return await self._insert_once(drafts, await self._prepare(drafts))

    async def _insert_once(self, drafts: list[Draft], prepared: Prepared) -> list[Stored | None]:
        rows = [_row(draft, tweet_id, prepared) for draft, tweet_id in zip(drafts, prepared.ids, strict=True)]
        able = [(draft, row) for draft, row in zip(drafts, rows, strict=True) if row]
        if not able:
            return rows
        pulls = [prepared.pulls[row.author_id] for _, row in able]
        made = await self._store.insert(
            [row for _, row in able],
            pulls,
            [(draft.request_id, draft.payload_hash) for draft, _ in able],
            [events.created(row, pull) for (_, row), pull in zip(able, pulls, strict=True)],
        )
        return [row if row and row.tweet_id in made else None for row in rows]

    async def _reasons(self, drafts: list[Draft]) -> Sequence[Stored | Exception]:
        """What to answer to those that were not made; what was made with them stands, so nothing is raised."""
        try:
            keys = [(draft.actor_id, draft.request_id) for draft in drafts if draft.request_id]
            claims = await self._store.replay(keys) if keys else {}
            parents = await self._store.get({draft.in_reply_to_tweet_id for draft in drafts})
        except Exception as error:
            return [error] * len(drafts)
        return [
            self._reason(draft, claims.get((draft.actor_id, draft.request_id)), parents.get(draft.in_reply_to_tweet_id))
            for draft in drafts
        ]

    def _reason(self, draft: Draft, claim: Claim | None, parent: Stored | None) -> Stored | Exception:
        if claim is None:
            return _parent_missing(draft.in_reply_to_tweet_id, parent)
        if claim.payload_hash != draft.payload_hash:
            return reused(draft.request_id)
        self._counts.create_replayed()
        # A tombstone has lost its text, but the same payload says it again.
        return claim.tweet._replace(text=draft.text, entities=draft.entities) if claim.tweet.deleted else claim.tweet


async def _nothing() -> dict[int, Stored]:
    return {}


def _row(draft: Draft, tweet_id: int, prepared: Prepared) -> Stored | None:
    """The tweet to commit; None when there is nothing to answer, unless the key says that it was made before."""
    if not draft.in_reply_to_tweet_id:
        return draft.stored(tweet_id, None)
    parent = prepared.parents.get(draft.in_reply_to_tweet_id)
    return draft.stored(tweet_id, parent) if parent and not parent.deleted else None


def _parent_missing(tweet_id: int, parent: Stored | None) -> errors.ServiceError:
    if parent is None:
        return not_found(tweet_id)
    if parent.deleted:
        return gone(tweet_id)
    # The key was there during the statement and was deleted, being a week old, before it could be read.
    return errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "the request_id expired this moment")
