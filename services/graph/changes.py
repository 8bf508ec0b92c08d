"""Pure: what follows and unfollows, taken in turn, make of accounts and edges as they were seen at one moment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.graph import v1 as graphpb
from services.graph import events
from services.runtime import idempotency
from services.runtime.outbox import Event


class Pair(NamedTuple):
    """The ends of an edge."""

    follower_id: int
    followee_id: int


class Wish(NamedTuple):
    """A follow or unfollow by the follower; a request_id makes it happen once."""

    pair: Pair
    follow: bool
    request_id: str = ""
    digest: bytes = b""
    """Tells its payload from another's under the same request_id."""

    @property
    def method(self) -> str:
        """The RPC that asked."""
        return "Follow" if self.follow else "Unfollow"

    @property
    def key(self) -> tuple[int, str]:
        """What makes it the same request: the actor and the request_id."""
        return self.pair.follower_id, self.request_id


@dataclass(slots=True)
class Account:
    """What is counted of a user; see the table."""

    user_id: int
    follower_count: int
    following_count: int
    follow_revision: int
    edge_revision: int
    follower_revision: int
    edge_revision_seen: int = field(init=False)
    follower_revision_seen: int = field(init=False)
    """The revisions as they were read: as long as the stored ones are these, nothing else has changed either."""

    def __post_init__(self) -> None:
        self.edge_revision_seen, self.follower_revision_seen = self.edge_revision, self.follower_revision


class Edge(NamedTuple):
    """A new edge's place in the lists of both ends."""

    revision: int
    position: int


class Remembered(NamedTuple):
    """The outcome of an earlier request."""

    digest: bytes
    reply: bytes


@dataclass(slots=True)
class Changes:
    """Accounts and edges as they stand, changed by one wish after the other, and what is to be written of it."""

    accounts: Mapping[int, Account]
    """Of the users that the wishes name; an end of a standing edge, and whoever is to follow or be followed, has one."""
    standing: dict[Pair, int]
    """Those edges that the wishes name and that stand, with the unix time in milliseconds since when."""
    remembered: dict[tuple[int, str], Remembered]
    """Outcomes of those requests that the wishes may repeat."""
    limit: int
    """Users that one may follow."""
    now_ms: int
    gained: dict[Pair, Edge] = field(default_factory=dict[Pair, Edge])
    """Edges to insert."""
    remade: dict[Pair, Edge] = field(default_factory=dict[Pair, Edge])
    """Stored edges that were ended and made again: to be updated."""
    lost: set[Pair] = field(default_factory=set[Pair])
    """Stored edges to delete."""
    events: list[Event] = field(default_factory=list[Event])
    new_replies: list[tuple[Wish, bytes]] = field(default_factory=list[tuple[Wish, bytes]])
    touched: set[int] = field(default_factory=set[int])
    """Users whose accounts are to be written."""
    made: int = 0
    ended: int = 0
    refused: int = 0
    _now: Timestamp = field(init=False)

    def __post_init__(self) -> None:
        self._now = Timestamp()
        self._now.FromMilliseconds(self.now_ms)

    def answer(self, wish: Wish) -> bytes | errors.ServiceError:
        """Does it, and returns the encoded reply; a repetition gets the first one's. An error changes nothing."""
        known = self.remembered.get(wish.key) if wish.request_id else None
        if known and known.digest != wish.digest:
            return idempotency.reused(wish.request_id)
        if known:
            # Written, so that this COMMIT waits for the standbys, and so for the first one.
            self._touch(wish.pair.follower_id)
            return known.reply
        reply = self._follow(wish.pair) if wish.follow else self._unfollow(wish.pair)
        if wish.request_id and isinstance(reply, bytes):
            self.remembered[wish.key] = Remembered(wish.digest, reply)
            self.new_replies.append((wish, reply))
            self._touch(wish.pair.follower_id)
        return reply

    def make(self, pairs: Iterable[Pair]) -> int:
        """Makes the edges that do not stand, without limit; how many."""
        before = self.made
        for pair in pairs:
            if pair not in self.standing:
                self._make(pair)
        return self.made - before

    def changed(self) -> list[Account]:
        """The accounts to write."""
        return [self.accounts[user_id] for user_id in sorted(self.touched)]

    def _touch(self, user_id: int) -> None:
        """Has the account written with another revision: whoever decided on the old one starts afresh."""
        self.accounts[user_id].edge_revision += 1
        self.touched.add(user_id)

    def _follow(self, pair: Pair) -> bytes | errors.ServiceError:
        since_ms = self.standing.get(pair)
        if since_ms is not None:
            reply = graphpb.FollowResponse(already_following=True)
            reply.follow_time.FromMilliseconds(since_ms)
            return reply.SerializeToString()
        if self.accounts[pair.follower_id].following_count >= self.limit:
            self.refused += 1
            return _limit_reached(self.limit)
        self._make(pair)
        return graphpb.FollowResponse(follow_time=self._now).SerializeToString()

    def _unfollow(self, pair: Pair) -> bytes:
        was_following = pair in self.standing
        if was_following:
            self._end(pair)
        return graphpb.UnfollowResponse(was_following=was_following).SerializeToString()

    def _make(self, pair: Pair) -> None:
        follower, followee = self.accounts[pair.follower_id], self.accounts[pair.followee_id]
        follower.following_count += 1
        follower.follow_revision += 1
        self._touch(pair.follower_id)
        followee.follower_count += 1
        followee.follower_revision += 1
        self.touched.add(pair.followee_id)
        self.standing[pair] = self.now_ms
        edge = Edge(follower.edge_revision, followee.follower_revision)
        if pair in self.lost:
            self.lost.discard(pair)
            self.remade[pair] = edge
        else:
            self.gained[pair] = edge
        self.events.append(events.followed(*pair, edge.revision, self._now))
        self.made += 1

    def _end(self, pair: Pair) -> None:
        follower, followee = self.accounts[pair.follower_id], self.accounts[pair.followee_id]
        follower.following_count -= 1
        self._touch(pair.follower_id)
        followee.follower_count -= 1
        followee.follower_revision += 1
        self.touched.add(pair.followee_id)
        del self.standing[pair]
        if not self.gained.pop(pair, None):
            self.remade.pop(pair, None)
            self.lost.add(pair)
        self.events.append(events.unfollowed(*pair, follower.edge_revision, self._now))
        self.ended += 1


def _limit_reached(limit: int) -> errors.FailedPrecondition:
    message = f"nobody can follow more than {limit} users"
    return errors.FailedPrecondition(errorspb.ERROR_REASON_FOLLOW_LIMIT, message, limit=limit)
