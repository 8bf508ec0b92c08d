"""Tweets and authors as they are shown: framed bytes, kept once per process however many homes hold them.

A tweet is immutable but for its deletion, which is final. Deletions come with every read as notices; a tweet that was
noticed is suspect for a while: its deletion may not be committed yet, so it is asked for at every use and not kept. One that
was found deleted is not asked for again, though windows hold it for long.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chirp.tweet import v1 as tweetpb
from chirp.user import v1 as userpb
from services.runtime.call import Call
from services.runtime.clock import Clock
from services.timeline import framing
from services.timeline.generations import Generations
from services.timeline.metrics import TimelineMetrics
from services.timeline.rules import Reference
from services.timeline.truth import Truth

SUSPICION = 30.0
"""Seconds between a deletion's notice and the latest moment at which a read of the tweet from before it could be kept."""
AUTHOR_LIFE = 60.0
"""Seconds that a name is shown without asking again, should the event of its change be missed."""


class Item(NamedTuple):
    """A tweet and its author as an element of a page."""

    tweet_id: int
    framed: bytes


@dataclass(frozen=True, slots=True)
class Author:
    """An author ready to be put beside a tweet."""

    field: bytes
    """TimelineItem.author, encoded."""
    until: float


@dataclass(slots=True)
class Shown:
    """A tweet ready to be put on a page."""

    reference: Reference
    field: bytes
    """TimelineItem.tweet, encoded."""
    _author: Author | None = None
    _item: Item | None = None

    def beside(self, author: Author) -> Item:
        """The tweet and its author as an item, joined once for as long as both stay the same."""
        if self._item is None or self._author is not author:
            self._author = author
            self._item = Item(self.reference.tweet_id, framing.item(self.field, author.field))
        return self._item


class Catalogue:
    """What pages are made of."""

    def __init__(self, truth: Truth, clock: Clock, metrics: TimelineMetrics, tweets: int = 200_000, authors: int = 100_000) -> None:
        self._truth, self._clock, self._metrics = truth, clock, metrics
        self._tweets: Generations[int, Shown] = Generations(tweets)
        self._authors: Generations[int, Author] = Generations(authors)
        self._gone: Generations[int, bool] = Generations(tweets)
        self._suspects: dict[int, float] = {}
        self._epoch = 0
        self._renamed: dict[int, int] = {}

    async def tweets(self, call: Call, tweet_ids: Sequence[int], *, cached: bool = True) -> dict[int, Shown]:
        """The tweets that there are, by id; a deleted or unknown one is left out and counted. `cached=False` asks the primary."""
        found: dict[int, Shown] = {}
        missing: list[int] = []
        for tweet_id in tweet_ids:
            shown = self._tweets.get(tweet_id) if cached else None
            if shown is not None:
                found[tweet_id] = shown
            elif not self._gone.get(tweet_id):
                missing.append(tweet_id)
        if missing:
            found.update(await self._fetch(call, missing, keep=cached))
        return found

    async def _fetch(self, call: Call, tweet_ids: Sequence[int], *, keep: bool) -> dict[int, Shown]:
        epoch = self._epoch
        records = await self._truth.tweets(call, tweet_ids)
        found = {record.tweet_id: _shown(record.tweet) for record in records if record.status == tweetpb.TWEET_STATUS_FOUND}
        for record in records:
            if record.status == tweetpb.TWEET_STATUS_DELETED:
                self._gone.put(record.tweet_id, True)
        self._metrics.skipped(len(tweet_ids) - len(found))
        self._metrics.tweets_fetched(len(tweet_ids))
        if keep and epoch == self._epoch:
            self._forgive()
            for tweet_id, shown in found.items():
                if tweet_id not in self._suspects:
                    self._tweets.put(tweet_id, shown)
        return found

    async def items(self, call: Call, page: Collection[Shown]) -> list[Item]:
        """The page's items, in order. A tweet whose author cannot be found is skipped and counted."""
        now, known = self._clock.monotonic(), self._authors.get
        authors = [known(shown.reference.author_id) for shown in page]
        unnamed = {
            shown.reference.author_id for shown, author in zip(page, authors, strict=True) if author is None or author.until <= now
        }
        if unnamed:
            named = await self._name(call, unnamed)
            authors = [named.get(shown.reference.author_id) or known(shown.reference.author_id) for shown in page]
            authors = [None if author is None or author.until <= now else author for author in authors]
        items = [shown.beside(author) for shown, author in zip(page, authors, strict=True) if author is not None]
        self._metrics.skipped(len(page) - len(items))
        return items

    async def _name(self, call: Call, author_ids: set[int]) -> dict[int, Author]:
        renames = {author_id: self._renamed.get(author_id, 0) for author_id in author_ids}
        users = await self._truth.users(call, author_ids)
        until = self._clock.monotonic() + AUTHOR_LIFE
        named = {user.user_id: Author(_author_field(user), until) for user in users}
        for author_id, author in named.items():
            if self._renamed.get(author_id, 0) == renames[author_id]:
                self._authors.put(author_id, author)
        return named

    def suspect(self, tweet_ids: Iterable[int]) -> None:
        """Tweets are being deleted: not shown from memory again, nor kept while a read from before may be under way."""
        until = self._clock.monotonic() + SUSPICION
        for tweet_id in tweet_ids:
            self._suspects[tweet_id] = until
            self._tweets.drop(tweet_id)

    def rename(self, user_id: int) -> None:
        """A profile has changed: it is asked for at its next use."""
        if len(self._renamed) > 10_000:
            self._renamed.clear()
            self._authors.clear()
        self._renamed[user_id] = self._renamed.get(user_id, 0) + 1
        self._authors.drop(user_id)

    def clear(self) -> None:
        """Notices may have been missed: every tweet is asked for at its next use."""
        self._epoch += 1
        self._tweets.clear()

    def _forgive(self) -> None:
        now = self._clock.monotonic()
        while self._suspects and (first := next(iter(self._suspects))) and self._suspects[first] <= now:
            del self._suspects[first]


def reference_of(tweet: tweetpb.Tweet) -> Reference:
    """What rules need of a whole tweet."""
    return Reference(tweet.tweet_id, tweet.author_id, tweet.in_reply_to_user_id)


def _shown(tweet: tweetpb.Tweet) -> Shown:
    return Shown(reference_of(tweet), framing.first_field(tweet.SerializeToString()))


def _author_field(user: userpb.User) -> bytes:
    summary = userpb.UserSummary(
        user_id=user.user_id, username=user.username, display_name=user.display_name, picture_url=user.picture_url)  # fmt: skip
    return framing.second_field(summary.SerializeToString())
