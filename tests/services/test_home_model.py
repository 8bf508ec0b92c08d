"""Homes against a model in memory: a few users do anything in any order, events arrive in any order or twice, windows
vanish, thresholds change, Redis fails; after each read the home must hold what the model demands and nothing it forbids.

Everything is small (windows of six entries, pages of followers of two), so that trims, floors and chained pages happen in
a few steps. A failure prints its steps and its seed; with Phase.shrink added it is made short, which takes minutes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from services.runtime import ids
from services.timeline import followers, home, positions, recents, window
from tests.services.gates import third
from tests.services.world import DEFAULT_THRESHOLD, Replica, World, open_world, shown

T = TypeVar("T")
USERS = 4
EXAMPLES, STEPS = 100, 40


@dataclass
class Tweet:
    """What the model knows of a tweet."""

    tweet_id: int
    author: int
    answers: int
    """The author it answers; 0 for none."""
    pull: bool
    deleted: bool = False
    delivered: bool = False


@dataclass
class Model:
    """The truth, and what must have reached the readers."""

    tweets: list[Tweet] = field(default_factory=list[Tweet])
    follows: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    """By follower and followee: how many tweets there were when it began."""

    def visible(self, reader: int, tweet: Tweet) -> bool:
        """Whether the tweet may be in the home."""
        if tweet.deleted or not (tweet.author == reader or (reader, tweet.author) in self.follows):
            return False
        return tweet.answers in (0, reader, tweet.author) or tweet.author == reader or (reader, tweet.answers) in self.follows

    def demanded(self, reader: int, tweet: Tweet) -> bool:
        """Whether it must be there: own, delivered, pulled, or older than the follow that had the home built anew."""
        since = self.follows.get((reader, tweet.author), 0)
        arrived = tweet.author == reader or tweet.delivered or tweet.pull or self.tweets.index(tweet) < since
        return arrived and self.visible(reader, tweet)

    def home(self, reader: int) -> tuple[set[int], set[int]]:
        """What must be in a home, and what may be."""
        must = {tweet.tweet_id for tweet in self.tweets if self.demanded(reader, tweet)}
        return must, {tweet.tweet_id for tweet in self.tweets if self.visible(reader, tweet)}


class Homes(RuleBasedStateMachine):
    """Steps; `world` and `loop` are given to a subclass."""

    world: World
    loop: asyncio.AbstractEventLoop
    users = st.integers(0, USERS - 1)
    any_tweet = st.integers(0, 1_000)
    """Counted back from the newest, round and round."""
    replicas = st.integers(0, 1)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it in the loop of the test."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    @initialize(edges=st.sets(st.tuples(users, users), min_size=2), authors=st.lists(users, min_size=3, max_size=9))
    def begin(self, edges: set[tuple[int, int]], authors: list[int]) -> None:
        self.model, self.threshold = Model(), DEFAULT_THRESHOLD
        self.people: list[int] = self.do(self.world.users(USERS))
        self.events: dict[int, Any] = {}
        self.tokens: dict[int, tuple[str, set[int]]] = {}
        self.do(self.world.forget_events())
        self.do(self.world.threshold(DEFAULT_THRESHOLD))
        for edge in sorted(edges):
            self.follow_or_unfollow(*edge)
        for author in authors:
            self._post(author, None)

    @rule(authors=st.lists(users, min_size=1, max_size=6), parent=st.none() | any_tweet, order=st.none() | st.randoms())
    def post(self, authors: list[int], parent: int | None, order: Random | None) -> None:
        """Posts, perhaps replies, which are perhaps delivered at once, in some order."""
        for author in authors:
            self._post(author, None if parent is None else self._tweet(parent))
        if order:
            made = self.model.tweets[-len(authors) :]
            order.shuffle(made)
            self._deliver(made)

    def _tweet(self, index: int) -> Tweet:
        return self.model.tweets[-1 - index % len(self.model.tweets)]

    def _post(self, author: int, parent: Tweet | None) -> None:
        self.world.clock.advance(0.02)
        user, parent = self.people[author], None if parent is None or parent.deleted else parent
        tweet_id = self.do(self.world.a_tweet(user, reply_to=parent.tweet_id if parent else 0))
        audience = sum(followee == user for _, followee in self.model.follows)
        self.model.tweets.append(Tweet(tweet_id, user, parent.author if parent else 0, audience >= self.threshold))
        (self.events[tweet_id],) = self.do(self.world.events())

    @rule(index=any_tweet, told=st.booleans())
    def delete(self, index: int, told: bool) -> None:
        tweet = self._tweet(index)
        self.do(self.world.delete(tweet.author, tweet.tweet_id))
        tweet.deleted = True
        events = self.do(self.world.events())
        if told:
            assert not any(self.do(self.world.worker.handle(*events)))

    @rule(follower=users, followee=users)
    def follow_or_unfollow(self, follower: int, followee: int) -> None:
        edge = self.people[follower], self.people[followee]
        if edge in self.model.follows:
            self.do(self.world.unfollows(*edge))
            del self.model.follows[edge]
        elif follower != followee:
            self.do(self.world.follows(*edge))
            self.model.follows[edge] = len(self.model.tweets)

    @rule(
        indices=st.lists(any_tweet, min_size=1, max_size=6),
        fault=st.sampled_from(["", "away", "mute"]),
        server=st.integers(0, 2),
        anew=st.booleans(),
    )
    def deliver(self, indices: list[int], fault: str, server: int, anew: bool) -> None:
        """In any order, any number of times, sometimes with an attempt that one Redis server does not confirm."""
        waiting = [tweet for tweet in self.model.tweets if not tweet.delivered] if anew else []
        chosen = waiting or self.model.tweets
        tweets, redis = [chosen[-1 - index % len(chosen)] for index in indices], self.world.worker.redis
        if fault:
            setattr(redis, fault, lambda key: third(key) == server)
        self._deliver(tweets, fault)

    def _deliver(self, tweets: list[Tweet], fault: str = "") -> None:
        """What is not acknowledged is delivered again, without the fault; the pages that follow likewise."""
        worker = self.world.worker
        again = [self.events[tweet.tweet_id] for tweet in tweets]
        for handle, attempts in ((worker.handle, 2), (worker.handle_pages, 20)):
            for _ in range(attempts):
                if again:
                    outcomes = self.do(handle(*again))
                    again = [event for event, outcome in zip(again, outcomes, strict=True) if outcome]
                    worker.redis.away = worker.redis.mute = lambda key: False
                if handle == worker.handle_pages:
                    again += worker.pages.take()
            assert not again
            again = worker.pages.take()
        for tweet in tweets:
            tweet.delivered = True

    @rule(seconds=st.sampled_from([0.5, 2.0, 7.0, 20.0, 90.0]))
    def wait(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @rule(threshold=st.sampled_from([1, 2, DEFAULT_THRESHOLD]))
    def change_threshold(self, threshold: int) -> None:
        self.do(self.world.threshold(threshold))
        self.threshold = threshold

    @rule(user=users, what=st.sampled_from(["window", "fences", "everything"]))
    def lose(self, user: int, what: str) -> None:
        if what == "everything":
            self.do(self.world.flush())
        else:
            self.do((self.world.drop if what == "window" else self.world.settle)(self.people[user]))

    @rule(replica=replicas, reader=users, size=st.integers(1, 7))
    def read(self, replica: int, reader: int, size: int) -> None:
        self._compare(self.world.replicas[replica], self.people[reader], size)

    @rule(replica=replicas, reader=users, size=st.integers(1, 7))
    def read_without_redis(self, replica: int, reader: int, size: int) -> None:
        chosen, user = self.world.replicas[replica], self.people[reader]
        chosen.redis.away = lambda key: True
        try:
            met = self.do(chosen.home(user, size))
        finally:
            chosen.redis.away = lambda key: False
        assert met == sorted(self.model.home(user)[1], reverse=True)

    @rule(replica=replicas, reader=users)
    def begin_polling(self, replica: int, reader: int) -> None:
        user = self.people[reader]
        self.world.clock.advance(1.1)
        page = self.do(self.world.replicas[replica].page(user, 200))
        self.tokens[user] = page.newer_token, set(shown(page))

    @precondition(lambda self: self.tokens)
    @rule(replica=replicas, data=st.data(), size=st.integers(1, 7))
    def poll(self, replica: int, data: st.DataObject, size: int) -> None:
        user = data.draw(st.sampled_from(sorted(self.tokens)))
        after, seen = self.tokens[user]
        self.world.clock.advance(1.1)
        found, after = self.do(self.world.replicas[replica].news(user, after, size))
        assert found == sorted(set(found)), "ascending, none twice"
        must, may = self.model.home(user)
        assert set(found) <= may
        assert not seen & set(found), "shown again"
        bound = max(seen, default=0) - ids.span(positions.RESCAN_MS)
        assert {tweet_id for tweet_id in must - seen if tweet_id > bound} <= set(found)
        self.tokens[user] = after, seen | set(found)

    def _compare(self, replica: Replica, user: int, size: int) -> None:
        self.world.clock.advance(1.1)
        met = self.do(replica.home(user, size))
        must, may = self.model.home(user)
        assert met == sorted(set(met), reverse=True), "strictly descending"
        assert must <= set(met), f"missing {must - set(met)}"
        assert set(met) <= may, f"forbidden {set(met) - may}"
        found = self.do(self.world.window(user))
        assert found is None or len(found.ids) <= window.CAPACITY + window.SLACK

    def teardown(self) -> None:
        for user in getattr(self, "people", ()):
            for replica in self.world.replicas:
                self._compare(replica, user, 3)


@pytest.fixture(scope="module")
async def world(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[World]:
    async with open_world(database, redis_nodes, nats_url) as world:
        yield world


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything overflows after a few tweets."""
    for module, name, value in (
        (window, "CAPACITY", 6),
        (window, "SLACK", 2),
        (home, "MARGIN", 2),
        (home, "TRUTH_STRETCH", 3),
        (recents, "OWN_LIMIT", 3),
        (recents, "PULL_LIMIT", 4),
        (followers, "PAGE", 2),
        (positions, "MOST_SEEN", 50),
    ):
        monkeypatch.setattr(module, name, value)


async def test_homes_are_what_the_model_says(world: World, small: None) -> None:
    loop = asyncio.get_running_loop()

    class Here(Homes):
        pass

    Here.world, Here.loop = world, loop
    bounded = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate),
    )
    chosen = random.getrandbits(32)
    print(f"@seed({chosen})")
    await asyncio.to_thread(run_state_machine_as_test, seed(chosen)(Here), settings=bounded)
