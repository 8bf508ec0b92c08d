"""The RPCs of the graph service."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.graph import v1 as graphpb
from services.graph import followerlists
from services.graph.changes import Pair, Wish
from services.graph.delivery import Delivery
from services.graph.edges import Edges
from services.graph.people import People
from services.graph.store import LAST, GraphStore, Listed, Relation
from services.runtime.call import Call
from services.runtime.clock import Clock
from services.runtime.idempotency import payload_hash
from services.runtime.outbox import Bell
from services.runtime.paging import PageTokens, page_size

STREAM_PAGE = 10_000
"""Followers in one message of a stream, unless told otherwise: 90 KB."""


class GraphService:
    """Answers who follows whom, and changes it."""

    def __init__(
        self,
        store: GraphStore,
        edges: Edges,
        delivery: Delivery,
        people: People,
        tokens: PageTokens,
        bell: Bell,
        clock: Clock,
    ) -> None:
        self._store, self._edges, self._delivery, self._people = store, edges, delivery, people
        self._tokens, self._bell, self._clock = tokens, bell, clock

    async def follow(self, request: graphpb.FollowRequest, call: Call) -> bytes:
        """Makes the caller follow a user who exists."""
        wish = _wish(request, call, True)
        if request.user_id == wish.pair.follower_id:
            raise errors.InvalidArgument.field(
                "user_id", "is your own: nobody can follow themselves", reason=errorspb.ERROR_REASON_SELF_FOLLOW
            )
        await self._people.require(*wish.pair)
        return await self._commit(wish)

    async def unfollow(self, request: graphpb.UnfollowRequest, call: Call) -> bytes:
        """Ends a follow; nothing to end is no error."""
        return await self._commit(_wish(request, call, False))

    async def list_followers(self, request: graphpb.ListFollowersRequest, call: Call) -> graphpb.ListFollowersResponse:
        """A page of a user's followers."""
        kind, size = f"graph.followers {request.user_id}", page_size(request.page_size)
        found, (standing,) = await asyncio.gather(
            self._store.followers(request.user_id, self._below(kind, request, call), size + 1),
            self._store.standings([request.user_id]),
        )
        return graphpb.ListFollowersResponse(
            items=await self._present(found[:size], call),
            next_page_token=self._next_token(kind, found, size, call),
            total_count=standing.follower_count,
        )

    async def list_following(self, request: graphpb.ListFollowingRequest, call: Call) -> graphpb.ListFollowingResponse:
        """A page of whom a user follows."""
        kind, size = f"graph.following {request.user_id}", page_size(request.page_size)
        found, (standing,) = await asyncio.gather(
            self._store.following(request.user_id, self._below(kind, request, call), size + 1),
            self._store.standings([request.user_id]),
        )
        return graphpb.ListFollowingResponse(
            items=await self._present(found[:size], call),
            next_page_token=self._next_token(kind, found, size, call),
            total_count=standing.following_count,
        )

    async def get_relationship(self, request: graphpb.GetRelationshipRequest, call: Call) -> graphpb.GetRelationshipResponse:
        """How the caller stands to a user."""
        (relation,) = await self._store.relations(call.viewer(), [request.user_id])
        return graphpb.GetRelationshipResponse(relationship=_relationship(relation))

    async def batch_get_relationships(
        self, request: graphpb.BatchGetRelationshipsRequest, call: Call
    ) -> graphpb.BatchGetRelationshipsResponse:
        """How one user stands to many."""
        relations = await self._store.relations(request.viewer_id, request.user_ids)
        return graphpb.BatchGetRelationshipsResponse(items=map(_relationship, relations))

    async def get_viewer_facts(self, request: graphpb.GetViewerFactsRequest, call: Call) -> graphpb.GetViewerFactsResponse:
        """What a home timeline needs to know of its reader."""
        facts = await self._store.viewer_facts(request.viewer_id, self._clock.now_ms())
        return graphpb.GetViewerFactsResponse(
            followee_ids=facts.followee_ids,
            pull_author_ids=facts.pull_author_ids,
            follow_revision=facts.follow_revision,
        )

    async def plan_delivery(self, request: graphpb.PlanDeliveryRequest, call: Call) -> graphpb.PlanDeliveryResponse:
        """Push or pull, per author."""
        reply = graphpb.PlanDeliveryResponse()
        for plan in await self._delivery.plan(request.author_ids):
            reply.items.add(author_id=plan.author_id, pull=plan.pull, follower_count=plan.follower_count)
        return reply

    async def batch_get_followers(self, request: graphpb.BatchGetFollowersRequest, call: Call) -> graphpb.BatchGetFollowersResponse:
        """Follower lists that have changed; every follow committed before this was asked is in them."""
        standings = await self._store.standings([known.author_id for known in request.authors])
        changed = followerlists.changed(standings, [known.revision for known in request.authors])
        lists = await self._store.follower_lists(changed) if changed else {}
        reply = graphpb.BatchGetFollowersResponse()
        for each in standings:
            reply.items.add(
                author_id=each.user_id, revision=each.follower_revision, follower_count=each.follower_count,
                listed=each.user_id in changed, follower_ids=lists.get(each.user_id, ()),
            )  # fmt: skip
        return reply

    async def stream_followers(
        self, request: graphpb.StreamFollowersRequest, call: Call
    ) -> AsyncGenerator[graphpb.StreamFollowersResponse]:
        """Followers by increasing id. A follow committed before the call is in it; at least one message, if only an empty one."""
        (standing,) = await self._store.standings([request.user_id])
        above, size = request.after_user_id, request.page_size or STREAM_PAGE
        while True:
            page = await self._store.follower_page(request.user_id, above, size)
            if page or above == request.after_user_id:
                yield graphpb.StreamFollowersResponse(follower_ids=page, revision=standing.follower_revision)
            if len(page) < size:
                return
            above = page[-1]

    async def batch_follow(self, request: graphpb.BatchFollowRequest, call: Call) -> graphpb.BatchFollowResponse:
        """Makes many edges at once, between users who are taken to exist."""
        created = await self._edges.make(Pair(edge.follower_id, edge.followee_id) for edge in request.edges)
        self._bell.ring()
        return graphpb.BatchFollowResponse(created_count=created)

    async def healthy(self) -> bool:
        """Without its database it serves nothing."""
        return await self._store.healthy()

    async def _commit(self, wish: Wish) -> bytes:
        reply = await self._edges.submit(wish)
        self._bell.ring()
        return reply

    async def _present(self, found: Sequence[Listed], call: Call) -> list[graphpb.FollowItem]:
        shown = await self._people.summaries([each.user_id for each in found], call)
        items = [graphpb.FollowItem(user=shown[each.user_id]) for each in found]
        for item, each in zip(items, found, strict=True):
            item.follow_time.FromMilliseconds(each.follow_ms)
        return items

    def _below(self, kind: str, request: "_Paged", call: Call) -> int:
        position = self._tokens.decode(request.page_token, kind, call.viewer_id)
        return position[0] if position else LAST

    def _next_token(self, kind: str, found: Sequence[Listed], size: int, call: Call) -> str:
        more = len(found) > size
        return self._tokens.encode(kind, call.viewer_id, [found[size - 1].position]) if more else ""


class _Paged(Protocol):
    """A request for a page of a list."""

    @property
    def page_token(self) -> str: ...


def _wish(request: graphpb.FollowRequest | graphpb.UnfollowRequest, call: Call, follow: bool) -> Wish:
    pair = Pair(call.viewer(), request.user_id)
    if not request.request_id:
        return Wish(pair, follow)
    return Wish(pair, follow, request.request_id, payload_hash("Follow" if follow else "Unfollow", request))


def _relationship(relation: Relation) -> graphpb.Relationship:
    made = graphpb.Relationship(
        user_id=relation.user_id,
        following=relation.follow_ms is not None,
        followed_by=relation.followed_by,
        follower_count=relation.follower_count,
        following_count=relation.following_count,
    )
    if relation.follow_ms is not None:
        made.follow_time.FromMilliseconds(relation.follow_ms)
    return made
