"""Writers and readers at work while something breaks, and a look at everything when they are done."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count

import psycopg

from chirp import errors
from chirp.errors import reason_name
from chirp.graph import v1 as graphpb
from chirp.ops import v1 as opspb
from chirp.tweet import v1 as tweetpb
from tests.cluster.clients import AGAIN, CALL_SECONDS, Clients, persistently
from tests.cluster.ledger import Act, EdgeEvent, Event, Ledger, Observed, Outcome, Reading, Reuse, Row, Write

KEYS = count(1)
THRESHOLD = 8
"""Followers from which on authors are pulled in these tests: the star alone has as many."""
PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class People:
    """Who takes part."""

    authors: list[int]
    """Pushed; the last of them posts through the REST shim."""
    star: int
    """Pulled, for everybody follows."""
    readers: list[int]

    @property
    def everybody(self) -> list[int]:
        return [*self.authors, self.star, *self.readers]


async def set_out(clients: Clients, dice: random.Random) -> Stream:
    """Registers people who follow each other, and warms their homes."""
    ledger, found = Ledger(), await clients.people(13)
    people = People(found[:4], found[4], found[5:])
    for reader in people.readers:
        for followed in [people.star, *dice.sample(people.authors, 2)]:
            await change_edge(clients, ledger, Act.FOLLOW, reader, followed)
    await change_edge(clients, ledger, Act.FOLLOW, people.authors[0], people.authors[1])
    for person in people.everybody:
        assert await clients.home(person) == []
    return Stream(clients, ledger, people, dice)


async def change_edge(clients: Clients, ledger: Ledger, act: Act, follower: int, followee: int) -> None:
    """Follows or unfollows, however long it takes: what comes after on the same edge must come after."""
    write = ledger.invoke(act, follower, f"edge-{next(KEYS)}", target=followee)

    async def call() -> int:
        change = clients.follow if act is Act.FOLLOW else clients.unfollow
        await change(follower, followee, write.request_id)
        return 0

    await attempt(ledger, write, call, PATIENCE)


async def attempt(ledger: Ledger, write: Write, call: Callable[[], Awaitable[int]], patience: float) -> None:
    """One write: repeated for so many seconds while there is no answer; `call` returns the tweet, 0 for none."""
    try:
        tweet_id = await (persistently(call, patience) if patience else call())
    except AGAIN:
        return
    except errors.ServiceError as error:
        if error.code.value[0] in (2, 13):  # UNKNOWN, INTERNAL
            ledger.surprises.append(f"{write.act} {write.request_id}: {error!r}")
        else:
            ledger.fail(write, f"{type(error).__name__} {error.message}")
        return
    ledger.ok(write, tweet_id)


class Stream:
    """All of them at work until told to stop."""

    def __init__(self, clients: Clients, ledger: Ledger, people: People, dice: random.Random) -> None:
        self.clients, self.ledger, self.people, self.dice = clients, ledger, people, dice
        self.began = time.time()
        self.posts = 0
        """Acknowledged."""
        self.last_post = 0.0
        """When the last one was."""
        self.degraded = 0
        self.failed_reads = 0
        self._stopped, self._ended = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Works until `stop`."""
        people = self.people
        try:
            async with asyncio.TaskGroup() as group:
                for author in (*people.authors, people.star):
                    group.create_task(self._write(author))
                group.create_task(self._change_mind(people.readers[0], people.authors[0]))
                group.create_task(self._change_mind(people.readers[1], people.star))
                group.create_task(self._read())
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Ends it after the calls under way."""
        self._stopped.set()
        await self._ended.wait()

    def post(self, write: Write) -> Callable[[], Awaitable[int]]:
        """The call that makes a tweet, in its author's way."""
        by_rest = write.actor == self.people.authors[-1]

        async def call() -> int:
            post = self._post_by_rest if by_rest else self.clients.post
            return await post(write.actor, write.text, write.request_id)

        return call

    def deletion(self, write: Write) -> Callable[[], Awaitable[int]]:
        """The call that deletes one."""

        async def call() -> int:
            await self.clients.delete(write.actor, write.target, write.request_id)
            return 0

        return call

    async def _write(self, author: int) -> None:
        posts: list[Write] = []
        while not self._stopped.is_set():
            write = self.ledger.invoke(Act.POST, author, f"post-{next(KEYS)}", text=f"{author} says {next(KEYS)}")
            # Half of them do not wait: what became of their tweets is found out later.
            patience = self.dice.choice((0.0, PATIENCE))
            await attempt(self.ledger, write, self.post(write), patience)
            if write.outcome is Outcome.OK:
                self.posts, self.last_post = self.posts + 1, write.ended
                posts.append(write)
                await self._look(author)
            if posts and self.dice.random() < 0.2:
                await self._delete(author, posts.pop(self.dice.randrange(len(posts))))
                await self._look(author)
            if posts and self.dice.random() < 0.1:
                again = self.dice.choice(posts)
                await attempt(self.ledger, again, self.post(again), PATIENCE)
            await self._pause()

    async def _delete(self, author: int, post: Write) -> None:
        write = self.ledger.invoke(Act.DELETE, author, f"delete-{next(KEYS)}", target=post.tweet_id)
        await attempt(self.ledger, write, self.deletion(write), self.dice.choice((0.0, PATIENCE)))

    async def _change_mind(self, reader: int, author: int) -> None:
        act = Act.UNFOLLOW
        while not self._stopped.is_set():
            await change_edge(self.clients, self.ledger, act, reader, author)
            act = Act.FOLLOW if act is Act.UNFOLLOW else Act.UNFOLLOW
            await self._look(reader)
            await self._pause()

    async def _read(self) -> None:
        while not self._stopped.is_set():
            await self._look(self.dice.choice(self.people.readers))
            await self._pause()

    async def _look(self, reader: int) -> None:
        """The home at every replica that answers."""
        await asyncio.gather(*(self._look_at(reader, replica) for replica in self.clients.timelines))

    async def _look_at(self, reader: int, replica: str) -> None:
        began = time.time()
        try:
            page = await self.clients.page(reader, replica=replica)
        except AGAIN:
            self.failed_reads += 1
        except errors.ServiceError as error:
            self.ledger.surprises.append(f"home of {reader} at {replica}: {error!r}")
        else:
            shown = tuple(item.tweet.tweet_id for item in page.items)
            self.degraded += page.degraded
            self.ledger.readings.append(Reading(reader, replica, began, time.time(), shown, not page.next_page_token))

    async def _pause(self) -> None:
        await asyncio.sleep(self.dice.uniform(0.01, 0.06))

    async def _post_by_rest(self, author: int, text: str, request_id: str) -> int:
        try:
            answer = await self.clients.rest.post("/v1/tweets", {"text": text, "requestId": request_id}, x_user_id=str(author))
        except (OSError, TimeoutError, EOFError) as error:
            raise errors.Unavailable(0, f"the gateway is away: {error!r}") from error
        if answer.status == 201:
            return int(answer.json["tweetId"])
        raise _rest_error(answer.status, answer.body)


def _rest_error(status: int, body: bytes) -> errors.ServiceError:
    kinds = {429: errors.ResourceExhausted, 503: errors.Unavailable, 504: errors.DeadlineExceeded, 500: errors.Internal}
    return kinds.get(status, errors.FailedPrecondition)(0, f"{status} {body.decode()}")


async def resolve(stream: Stream) -> int:
    """Finds out what became of the writes that were not answered, by repeating them; how many there were."""
    unknown = stream.ledger.unknown()
    for write in unknown:
        call = stream.post(write) if write.act is Act.POST else stream.deletion(write)
        await attempt(stream.ledger, write, call, PATIENCE)
    return len(unknown)


async def use_keys_again(stream: Stream, number: int = 10) -> None:
    """Repeats some posts, and sends something else under their keys."""
    clients, posts = stream.clients, stream.ledger.done(Act.POST)
    for post in stream.dice.sample(posts, min(number, len(posts))):
        stream.ledger.ok(post, await persistently(stream.post(post)))
        try:
            await persistently(lambda post=post: clients.post(post.actor, "something else", post.request_id))
            reason = ""
        except errors.ServiceError as error:
            reason = reason_name(error.reason)
        stream.ledger.reuses.append(Reuse(post.actor, post.request_id, reason))


async def observe(stream: Stream, dsn: str) -> Observed:
    """What the cluster serves and what lies in its database, when nothing is under way."""
    clients, ledger, people = stream.clients, stream.ledger, stream.people
    known = sorted({tweet_id for write in ledger.done(Act.POST) for tweet_id in write.tweet_ids})
    texts: dict[int, str | None] = {}
    for first in range(0, len(known), 500):
        request = tweetpb.BatchGetTweetsRequest(tweet_ids=known[first : first + 500])
        reply = await persistently(lambda request=request: clients.tweets.BatchGetTweets(request, timeout=CALL_SECONDS))
        texts |= {item.tweet_id: item.tweet.text if item.HasField("tweet") else None for item in reply.items}
    profiles = {author: await clients.profile(author) for author in people.everybody}
    homes = {
        (replica, person): await clients.home(person, replica=replica)
        for person in people.everybody
        for replica in clients.timelines
    }
    seen = Observed(texts, profiles, homes, [], [], set(), [])
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await _observe_truth(connection, people.everybody, seen)
    letters = await clients.ops["relay"].ListDeadLetters(opspb.ListDeadLettersRequest(), timeout=CALL_SECONDS)
    seen.dead_letters += [f"{letter.subject} {letter.reason}: {letter.error}" for letter in letters.items]
    return seen


async def _observe_truth(connection: psycopg.AsyncConnection, people: list[int], seen: Observed) -> None:
    rows = await connection.execute("select tweet_id, author_id, text from tweet.tweet where author_id = any(%s)", (people,))
    seen.rows += [Row(*row) for row in await rows.fetchall()]
    edges = await connection.execute("select follower_id, followee_id from graph.following where follower_id = any(%s)", (people,))
    seen.edges |= {(follower, followee) for follower, followee in await edges.fetchall()}
    for fact, message in (("created", tweetpb.TweetCreated), ("deleted", tweetpb.TweetDeleted)):
        rows = await connection.execute(
            "select payload, published_time is not null from tweet.outbox where subject = any(%s)",
            (_subjects("tweet", fact, people),),
        )
        seen.events += [Event(fact, message.FromString(payload).tweet_id, done) for payload, done in await rows.fetchall()]
    for fact, message in (("followed", graphpb.Followed), ("unfollowed", graphpb.Unfollowed)):
        rows = await connection.execute(
            "select payload, published_time is not null from graph.outbox where subject = any(%s)",
            (_subjects("graph", fact, people),),
        )
        for payload, done in await rows.fetchall():
            event = message.FromString(payload)
            edge = EdgeEvent(event.follower_id, event.followee_id, event.revision, fact == "followed", done)
            seen.edge_events.append(edge)


def _subjects(schema: str, fact: str, people: list[int]) -> list[str]:
    return [f"{schema}.{fact}.{person}" for person in people]
