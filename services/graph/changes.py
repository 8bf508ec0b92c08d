"""Pure: what follows and unfollows, taken in turn, make of accounts and edges that nobody else changes meanwhile."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

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
    """Of all users that the wishes name."""
    standing: dict[Pair, int]
    """Those edges that the wishes name and that stand, with the unix time in milliseconds since when."""
    remembered: dict[tuple[int, str], Remembered]
    """Outcomes of those requests that the wishes may repeat."""
    limit: int
    """Users that one may follow."""
    now_ms: int
    gained: dict[Pair, Edge] = field(default_factory=dict[Pair, Edge])
    lost: set[Pair] = field(default_factory=set[Pair])
    events: list[Event] = field(default_factory=list[Event])
    new_replies: list[tuple[Wish, bytes]] = field(default_factory=list[tuple[Wish, bytes]])
    made: int = 0
    ended: int = 0
    refused: int = 0

    def answer(self, wish: Wish) -> bytes | errors.ServiceError:
        """Does it, and returns the encoded reply; a repetition gets the first one's. An error changes nothing."""
        known = self.remembered.get(wish.key) if wish.request_id else None
        if known:
            return known.reply if known.digest == wish.digest else idempotency.reused(wish.request_id)
        reply = self._follow(wish.pair) if wish.follow else self._unfollow(wish.pair)
        if wish.request_id and isinstance(reply, bytes):
            self.remembered[wish.key] = Remembered(wish.digest, reply)
            self.new_replies.append((wish, reply))
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
        touched = {user_id for pair in (*self.gained, *self.lost) for user_id in pair}
        return [self.accounts[user_id] for user_id in sorted(touched)]

    def _follow(self, pair: Pair) -> bytes | errors.ServiceError:
        already = pair in self.standing
        if not already:
            if self.accounts[pair.follower_id].following_count >= self.limit:
                self.refused += 1
                return _limit_reached(self.limit)
            self._make(pair)
        reply = graphpb.FollowResponse(already_following=already)
        reply.follow_time.FromMilliseconds(self.standing[pair])
        return reply.SerializeToString()

    def _unfollow(self, pair: Pair) -> bytes:
        was_following = pair in self.standing
        if was_following:
            self._end(pair)
        return graphpb.UnfollowResponse(was_following=was_following).SerializeToString()

    def _make(self, pair: Pair) -> None:
        follower, followee = self.accounts[pair.follower_id], self.accounts[pair.followee_id]
        follower.following_count += 1
        follower.follow_revision += 1
        follower.edge_revision += 1
        followee.follower_count += 1
        followee.follower_revision += 1
        self.standing[pair] = self.now_ms
        self.lost.discard(pair)
        self.gained[pair] = Edge(follower.edge_revision, followee.follower_revision)
        self.events.append(events.followed(*pair, follower.edge_revision, self.now_ms))
        self.made += 1

    def _end(self, pair: Pair) -> None:
        follower, followee = self.accounts[pair.follower_id], self.accounts[pair.followee_id]
        follower.following_count -= 1
        follower.edge_revision += 1
        followee.follower_count -= 1
        followee.follower_revision += 1
        del self.standing[pair]
        self.gained.pop(pair, None)
        self.lost.add(pair)
        self.events.append(events.unfollowed(*pair, follower.edge_revision, self.now_ms))
        self.ended += 1


def _limit_reached(limit: int) -> errors.FailedPrecondition:
    message = f"nobody can follow more than {limit} users"
    return errors.FailedPrecondition(errorspb.ERROR_REASON_FOLLOW_LIMIT, message, limit=limit)
