"""The oracle of the fault tests: what writers were told, and whether what is served afterwards agrees with it.

Pure. A Ledger holds every call with what became of it, and every reading made meanwhile; Observed is the state of the cluster
when all is quiet again. `check` names each breach by its invariant (I1 … I13, as in the fault catalogue):

    I1 acknowledged and readable       I2 once in the author's timeline, in order  I3 once in every follower's home, in no other
    I5 own acts in the own next read   I6 deleted: served to nobody                I7 one tweet a key, the same on repetition
    I8 no outcome stays unknown        I10 the last follow or unfollow wins        I11 ids unique and by time
    I12 every commit has its event     I13 no dead letter
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from services.runtime import ids

CLOCKS_APART = 1.0
"""Seconds by which an id's time may lie outside of the call that made it."""


class Act(StrEnum):
    """What a writer does. The target of a deletion is a tweet, of the last two a user."""

    POST = "post"
    DELETE = "delete"
    FOLLOW = "follow"
    UNFOLLOW = "unfollow"


class Outcome(StrEnum):
    """What a writer knows of a call. Whoever got no answer knows nothing."""

    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(slots=True, eq=False)
class Write:
    """One write with all its attempts; times in unix seconds, `ended` that of the first OK."""

    act: Act
    actor: int
    request_id: str
    began: float
    target: int = 0
    text: str = ""
    outcome: Outcome = Outcome.UNKNOWN
    ended: float = math.inf
    tweet_ids: list[int] = field(default_factory=list[int])
    """Of a post: the answer of every attempt that was answered."""
    reason: str = ""

    @property
    def tweet_id(self) -> int:
        """The tweet it made."""
        return self.tweet_ids[0]


@dataclass(frozen=True, slots=True)
class Reading:
    """The top of a home, as a replica served it in the midst of things."""

    reader: int
    replica: str
    began: float
    ended: float
    ids: tuple[int, ...]
    whole: bool

    @property
    def bottom(self) -> int:
        """Ids from here on are on the page if they are in the home."""
        return 0 if self.whole or not self.ids else self.ids[-1]


@dataclass(frozen=True, slots=True)
class Reuse:
    """A key that was used again with another payload, and the reason of the refusal ("" if it was taken)."""

    actor: int
    request_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Breach:
    """What must not be."""

    invariant: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what}"


class Ledger:
    """Every call of a run."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.readings: list[Reading] = []
        self.reuses: list[Reuse] = []
        self.surprises: list[str] = []
        """Answers that no fault excuses, such as INTERNAL."""

    def invoke(self, act: Act, actor: int, request_id: str, *, target: int = 0, text: str = "") -> Write:
        """Before a call."""
        write = Write(act, actor, request_id, time.time(), target, text)
        self.writes.append(write)
        return write

    def ok(self, write: Write, tweet_id: int = 0) -> None:
        """It was acknowledged; again, when it was repeated."""
        if write.outcome is not Outcome.OK:
            write.outcome, write.ended = Outcome.OK, time.time()
        if tweet_id:
            write.tweet_ids.append(tweet_id)

    def fail(self, write: Write, reason: str) -> None:
        """It was definitely refused."""
        write.outcome, write.reason = Outcome.FAIL, reason

    def unknown(self) -> list[Write]:
        """What must be resolved by repeating it."""
        return [write for write in self.writes if write.outcome is Outcome.UNKNOWN]

    def done(self, *acts: Act) -> list[Write]:
        """Acknowledged writes of these kinds, in the order in which they began."""
        return sorted(
            (each for each in self.writes if each.act in acts and each.outcome is Outcome.OK), key=lambda each: each.began
        )

    def deleted(self) -> set[int]:
        """Tweets whose deletion was acknowledged."""
        return {write.target for write in self.done(Act.DELETE)}

    def live(self) -> dict[int, Write]:
        """Acknowledged posts that were not deleted, by tweet."""
        deleted = self.deleted()
        return {write.tweet_id: write for write in self.done(Act.POST) if write.tweet_id not in deleted}

    def edges(self) -> set[tuple[int, int]]:
        """Who follows whom in the end."""
        last = {(each.actor, each.target): each.act for each in self.done(Act.FOLLOW, Act.UNFOLLOW)}
        return {edge for edge, act in last.items() if act is Act.FOLLOW}


@dataclass(frozen=True, slots=True)
class Row:
    """A tweet as it lies in the truth; no text when it was deleted."""

    tweet_id: int
    author_id: int
    text: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the outbox of tweets: "created" or "deleted"."""

    fact: str
    tweet_id: int
    published: bool = True


@dataclass(frozen=True, slots=True)
class EdgeEvent:
    """A row of the outbox of the graph."""

    follower_id: int
    followee_id: int
    revision: int
    following: bool
    published: bool = True


@dataclass(slots=True)
class Observed:
    """The cluster when nothing is under way any more, as far as the ledger's people are concerned."""

    texts: dict[int, str | None]
    """By tweet: its text as served; None for one that is not served."""
    profiles: dict[int, list[int]]
    """By author."""
    homes: dict[tuple[str, int], list[int]]
    """By replica and reader."""
    rows: list[Row]
    events: list[Event]
    edges: set[tuple[int, int]]
    edge_events: list[EdgeEvent]
    dead_letters: list[str] = field(default_factory=list[str])


def check(ledger: Ledger, seen: Observed) -> list[Breach]:
    """Everything that is not as it was acknowledged."""
    parts = (_outcomes(ledger), _readable(ledger, seen), _profiles(ledger, seen), _homes(ledger, seen), _keys(ledger, seen),
             _graph(ledger, seen), _ids(ledger, seen), _events(seen), _readings(ledger))  # fmt: skip
    found = [breach for part in parts for breach in part]
    return found + [Breach("I13", f"dead letter: {letter}") for letter in seen.dead_letters]


def _outcomes(ledger: Ledger) -> Iterator[Breach]:
    for surprise in ledger.surprises:
        yield Breach("answer", surprise)
    for write in ledger.writes:
        if write.outcome is Outcome.UNKNOWN:
            yield Breach("I8", f"{write.act} {write.request_id} has no outcome")
        elif write.outcome is Outcome.FAIL:
            yield Breach("answer", f"{write.act} {write.request_id} was refused: {write.reason}")


def _readable(ledger: Ledger, seen: Observed) -> Iterator[Breach]:
    for tweet_id, write in ledger.live().items():
        text = seen.texts.get(tweet_id)
        if text != write.text:
            yield Breach("I1", f"tweet {tweet_id} of {write.actor} reads {text!r}, not {write.text!r}")
    for tweet_id in ledger.deleted():
        if seen.texts.get(tweet_id) is not None:
            yield Breach("I6", f"tweet {tweet_id} is readable after its deletion")


def _profiles(ledger: Ledger, seen: Observed) -> Iterator[Breach]:
    live, deleted = ledger.live(), ledger.deleted()
    for author, served in seen.profiles.items():
        expected = {tweet_id for tweet_id, write in live.items() if write.actor == author}
        yield from _compared("I2", f"timeline of {author}", expected, served, deleted)


def _homes(ledger: Ledger, seen: Observed) -> Iterator[Breach]:
    live, deleted, edges = ledger.live(), ledger.deleted(), ledger.edges()
    for (replica, reader), served in seen.homes.items():
        expected = {tweet_id for tweet_id, write in live.items() if write.actor == reader or (reader, write.actor) in edges}
        yield from _compared("I3", f"home of {reader} at {replica}", expected, served, deleted)


def _compared(
    invariant: str, where: str, expected: Collection[int], served: Sequence[int], deleted: Collection[int]
) -> Iterator[Breach]:
    yield from _ordered(invariant, where, served)
    for tweet_id in set(expected) - set(served):
        yield Breach(invariant, f"tweet {tweet_id} is missing in the {where}")
    for tweet_id in set(served) - set(expected):
        yield Breach("I6" if tweet_id in deleted else invariant, f"tweet {tweet_id} does not belong in the {where}")


def _ordered(invariant: str, where: str, served: Sequence[int]) -> Iterator[Breach]:
    for tweet_id, count in Counter(served).items():
        if count > 1:
            yield Breach(invariant, f"tweet {tweet_id} is {count} times in the {where}")
    for upper, lower in itertools.pairwise(served):
        if lower > upper:
            yield Breach(invariant, f"tweet {lower} stands below the older {upper} in the {where}")


def _keys(ledger: Ledger, seen: Observed) -> Iterator[Breach]:
    known: set[int] = set()
    for write in ledger.done(Act.POST):
        known.update(write.tweet_ids)
        if len(set(write.tweet_ids)) != 1:
            yield Breach("I7", f"key {write.request_id} of {write.actor} was answered with {set(write.tweet_ids)}")
    for row in seen.rows:
        if row.tweet_id not in known:
            yield Breach("I7", f"tweet {row.tweet_id} of {row.author_id} was made by no acknowledged call")
    for reuse in ledger.reuses:
        if reuse.reason != "IDEMPOTENCY_KEY_REUSED":
            yield Breach("I7", f"key {reuse.request_id} with another payload: {reuse.reason or 'taken'}")


def _graph(ledger: Ledger, seen: Observed) -> Iterator[Breach]:
    for follower, followee in ledger.edges() ^ seen.edges:
        yield Breach("I10", f"whether {follower} follows {followee} is not as it was last acknowledged")


def _ids(ledger: Ledger, seen: Observed) -> Iterator[Breach]:
    owners: dict[int, Write] = {}
    for write in ledger.done(Act.POST):
        if owners.setdefault(write.tweet_id, write) is not write:
            yield Breach("I11", f"id {write.tweet_id} was given to {write.request_id} and {owners[write.tweet_id].request_id}")
        made = ids.time_ms(write.tweet_id) / 1000
        if not write.began - CLOCKS_APART <= made <= write.ended + CLOCKS_APART:
            yield Breach("I11", f"id {write.tweet_id} is of {made:.3f}, its call from {write.began:.3f} to {write.ended:.3f}")
    for tweet_id, count in Counter(row.tweet_id for row in seen.rows).items():
        if count > 1:
            yield Breach("I11", f"id {tweet_id} is {count} times in the truth")


def _events(seen: Observed) -> Iterator[Breach]:
    expected = {("created", row.tweet_id) for row in seen.rows}
    expected |= {("deleted", row.tweet_id) for row in seen.rows if row.text is None}
    counted = Counter((event.fact, event.tweet_id) for event in seen.events)
    for fact, tweet_id in expected - counted.keys():
        yield Breach("I12", f"there is no event that {tweet_id} was {fact}")
    for fact, tweet_id in counted.keys() - expected:
        yield Breach("I12", f"an event says that {tweet_id} was {fact}")
    for (fact, tweet_id), count in counted.items():
        if count > 1:
            yield Breach("I12", f"{count} events say that {tweet_id} was {fact}")
    last: dict[tuple[int, int], EdgeEvent] = {}
    for event in sorted(seen.edge_events, key=lambda each: each.revision):
        last[event.follower_id, event.followee_id] = event
    announced = {edge for edge, event in last.items() if event.following}
    for follower, followee in announced ^ seen.edges:
        yield Breach("I12", f"the last event of the edge {follower} → {followee} says otherwise than the edge")
    for event in (*seen.events, *seen.edge_events):
        if not event.published:
            yield Breach("I12", f"never published: {event}")


def _readings(ledger: Ledger) -> Iterator[Breach]:
    facts = _Meanwhile(ledger)
    for reading in ledger.readings:
        where = f"home of {reading.reader} at {reading.replica}"
        yield from _ordered("I3", where, reading.ids)
        yield from facts.breaches(reading, where)


class _Meanwhile:
    """What a reading in the midst of things had to show, and what it must not."""

    def __init__(self, ledger: Ledger) -> None:
        self._posts = {tweet_id: write for write in ledger.done(Act.POST) for tweet_id in write.tweet_ids[:1]}
        self._by_author: dict[int, list[Write]] = defaultdict(list)
        for write in self._posts.values():
            self._by_author[write.actor].append(write)
        self._deletions: Mapping[int, Write] = {each.target: each for each in ledger.writes if each.act is Act.DELETE}
        self._edges: dict[int, dict[int, list[Write]]] = defaultdict(lambda: defaultdict(list))
        for write in sorted(ledger.writes, key=lambda each: each.began):
            if write.act in (Act.FOLLOW, Act.UNFOLLOW):
                self._edges[write.actor][write.target].append(write)

    def breaches(self, reading: Reading, where: str) -> Iterator[Breach]:
        """Of one reading."""
        served = set(reading.ids)
        for tweet_id in sorted(self._due(reading) - served):
            yield Breach("I5", f"tweet {tweet_id} was missing in the {where} {_after(self._posts[tweet_id], reading)}")
        for tweet_id in served:
            deletion = self._deletions.get(tweet_id)
            if deletion is not None and deletion.ended < reading.began:
                yield Breach("I6", f"tweet {tweet_id} was in the {where} {_after(deletion, reading)}")
            post = self._posts.get(tweet_id)
            if post is not None and not self._may_show(reading, post.actor):
                yield Breach("I3", f"tweet {tweet_id} of {post.actor} was in the {where}, who does not follow")

    def _due(self, reading: Reading) -> set[int]:
        """Own tweets acknowledged before it, and those that were there before somebody was followed for good."""
        since = {reading.reader: reading.began}
        for author, writes in self._edges[reading.reader].items():
            last = _settled(writes, reading)
            if last is not None and last.act is Act.FOLLOW:
                since[author] = last.began
        posts = [post for author, until in since.items() for post in self._by_author[author] if post.ended < until]
        return {post.tweet_id for post in posts if post.tweet_id >= reading.bottom and not self._may_be_gone(post, reading)}

    def _may_be_gone(self, post: Write, reading: Reading) -> bool:
        deletion = self._deletions.get(post.tweet_id)
        return deletion is not None and deletion.began < reading.ended

    def _may_show(self, reading: Reading, author: int) -> bool:
        if author == reading.reader:
            return True
        writes = [write for write in self._edges[reading.reader][author] if write.began < reading.ended]
        last = _settled(writes, reading)
        return bool(writes) and (last is None or last.act is Act.FOLLOW)


def _settled(writes: Sequence[Write], reading: Reading) -> Write | None:
    """The last change of an edge if all were settled when the reading began; None if there is none or that is open."""
    begun = [write for write in writes if write.began < reading.ended and write.outcome is not Outcome.FAIL]
    return begun[-1] if begun and all(write.ended < reading.began for write in begun) else None


def _after(write: Write, reading: Reading) -> str:
    return f"{reading.began - write.ended:.3f} s after its {write.act} was acknowledged"
