"""Loads a graph and tweets through the services' own batch RPCs.

Everything can be repeated: users are known by their names, edges by their ends, tweets by their request ids. So a load that
was broken off is resumed by running it again; what is there already is only looked at.
"""

import asyncio
import random
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeVar

from chirp import errors
from chirp.graph import v1 as graphpb
from chirp.tweet import v1 as tweetpb
from chirp.user import v1 as userpb
from loadtest.graphs import Graph
from loadtest.texts import Writer
from services.runtime import ids

T = TypeVar("T")
R = TypeVar("R")

USERS_AT_A_TIME, EDGES_AT_A_TIME, TWEETS_AT_A_TIME = 1000, 5000, 500
IN_FLIGHT = 2
"""Batches under way: the service works on one while the loader packs the next."""
CALL_SECONDS = 30.0
ATTEMPTS = 5
STRETCH = 5000
"""Tweets posted between two looks back: a reply is posted after all of its stretch that stands for itself."""
REPLIES = 0.1
"""Share of tweets that answer an earlier one."""

Tick = Callable[[int], None]
"""Told of each batch that is done."""


@dataclass(slots=True)
class Loaded:
    """What a load found or made."""

    user_ids: dict[int, int] = field(default_factory=dict[int, int])
    """By node."""
    created_users: int = 0
    created_edges: int = 0
    created_tweets: int = 0
    refused: dict[str, int] = field(default_factory=dict[str, int])
    """Tweets that were refused, by reason."""


class Loader:
    """One load into one cluster."""

    def __init__(
        self,
        users: "userpb.UserServiceAsyncStub",
        graph: "graphpb.GraphServiceAsyncStub",
        tweets: "tweetpb.TweetServiceAsyncStub",
        prefix: str,
    ) -> None:
        """`prefix` goes before the node's number in usernames and before the tweet's in request ids."""
        self._users, self._graph, self._tweets, self._prefix = users, graph, tweets, prefix
        self._since = ids.first_at(time.time_ns() // 1_000_000)
        self.loaded = Loaded()

    def username(self, node: int) -> str:
        """The name of a node."""
        return f"{self._prefix}{node}"

    async def users(self, nodes: Sequence[int], tick: Tick) -> None:
        """Makes the users that are not there."""

        async def load(batch: Sequence[int]) -> None:
            request = userpb.BatchCreateUsersRequest(
                users=(
                    userpb.CreateUserRequest(username=self.username(node), display_name=f"{self._prefix.title()} {node}")
                    for node in batch
                )
            )
            reply = await _persistently(lambda: self._users.BatchCreateUsers(request, timeout=CALL_SECONDS))
            for node, made in zip(batch, reply.items, strict=True):
                self.loaded.user_ids[node] = made.user_id
                self.loaded.created_users += not made.already_exists
            tick(len(batch))

        await _in_turn(_batches(nodes, USERS_AT_A_TIME), load)

    async def follows(self, edges: Sequence[tuple[int, int]], tick: Tick) -> None:
        """Makes the follows that are not there."""
        user_ids = self.loaded.user_ids

        async def load(batch: Sequence[tuple[int, int]]) -> None:
            request = graphpb.BatchFollowRequest(
                edges=(graphpb.FollowEdge(follower_id=user_ids[a], followee_id=user_ids[b]) for a, b in batch)
            )
            reply = await _persistently(lambda: self._graph.BatchFollow(request, timeout=CALL_SECONDS))
            self.loaded.created_edges += reply.created_count
            tick(len(batch))

        await _in_turn(_batches(edges, EDGES_AT_A_TIME), load)

    async def tweets(self, plan: "Plan", writer: Writer, tick: Tick) -> None:
        """Posts tweets in stretches: first those that stand for themselves, then those that answer an earlier one.

        What answers what is fixed by the plan, so that a repeated load sends the same payloads under the same request ids.
        """
        posted: dict[int, int] = {}

        async def load(numbers: Sequence[int]) -> None:
            made = [self._tweet(plan, writer, number, posted) for number in numbers]
            request = tweetpb.BatchCreateTweetsRequest(tweets=made)
            reply = await _persistently(lambda: self._tweets.BatchCreateTweets(request, timeout=CALL_SECONDS))
            for number, item in zip(numbers, reply.items, strict=True):
                self._count(item)
                posted[number] = item.tweet_id
            tick(len(numbers))

        for first in range(0, plan.count, STRETCH):
            stretch = range(first, min(first + STRETCH, plan.count))
            for answering in (False, True):
                chosen = [number for number in stretch if (plan.answers(number) is not None) is answering]
                await _in_turn(_batches(chosen, TWEETS_AT_A_TIME), load)

    def _tweet(self, plan: "Plan", writer: Writer, number: int, posted: Mapping[int, int]) -> tweetpb.AuthoredTweet:
        tweet = tweetpb.CreateTweetRequest(text=writer.write(number), request_id=f"{self._prefix}-{plan.seed}-{number}")
        answered = plan.answers(number)
        if answered is not None:
            tweet.in_reply_to_tweet_id = posted[answered]
        return tweetpb.AuthoredTweet(author_id=self.loaded.user_ids[plan.author(number)], tweet=tweet)

    def _count(self, made: tweetpb.CreatedTweet) -> None:
        if made.reason:
            self.loaded.refused[made.reason] = self.loaded.refused.get(made.reason, 0) + 1
        else:
            self.loaded.created_tweets += made.tweet_id >= self._since


class Plan:
    """Who tweets: authors by Zipf's law, the most followed the most often; and what answers what."""

    def __init__(self, graph: Graph, count: int, seed: int = 1) -> None:
        self.count, self.seed = count, seed
        self._authors = graph.by_followers()
        self._cumulated = list(accumulate(1 / rank for rank in range(1, len(self._authors) + 1)))

    def author(self, number: int) -> int:
        """The node that writes the n-th tweet."""
        return self._authors[bisect_left(self._cumulated, self._dice(number).random() * self._cumulated[-1])]

    def answers(self, number: int) -> int | None:
        """The number of the earlier tweet that the n-th answers, if it answers one: one that stands for itself."""
        dice = self._dice(-number)
        if number % STRETCH == 0 or dice.random() >= REPLIES:
            return None
        answered = dice.randrange(number)
        while self.answers(answered) is not None:
            answered -= 1
        return answered

    def _dice(self, number: int) -> random.Random:
        return random.Random(self.seed * 1_000_000_007 + number)


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[first : first + size] for first in range(0, len(items), size))


async def _in_turn(batches: Iterator[Sequence[T]], load: Callable[[Sequence[T]], Awaitable[None]]) -> None:
    """A few batches at a time, each worker taking the next."""

    async def work() -> None:
        for batch in batches:
            await load(batch)

    async with asyncio.TaskGroup() as workers:
        for _ in range(IN_FLIGHT):
            workers.create_task(work())


async def _persistently(call: Callable[[], Awaitable[R]]) -> R:
    """Repeats a call that found its service away or busy: every batch can be repeated."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return await call()
        except (errors.Unavailable, errors.ResourceExhausted, errors.DeadlineExceeded):
            await asyncio.sleep(0.2 * 2**attempt)
    return await call()
