"""Fan-out: events of tweets into the homes of those who follow their authors.

Redelivery story: a push is repeated, readers see one entry; a page of progress written twice counts once; an event that
comes late throws homes away instead, which can be repeated too. Order does not matter: a deleted tweet is not pushed, and
if it was, no reader is shown it. Authors with more than a page of followers are served from a queue of pages, each of which
announces the next, so that nobody waits behind them.
"""

import asyncio
from collections.abc import Sequence

from chirp.graph import v1 as graphpb
from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from services.runtime import ids
from services.runtime.call import Call
from services.runtime.clock import Clock
from services.runtime.consumer import Message, PermanentFailure, Retry
from services.runtime.consumer import Outcome as Handled
from services.runtime.publisher import Outgoing, Publisher
from services.timeline import followers
from services.timeline.followers import FollowerHomes
from services.timeline.generations import Generations
from services.timeline.metrics import TimelineMetrics
from services.timeline.progress import Outcome, PageDone, ProgressStore
from services.timeline.push import Pusher
from services.timeline.truth import Truth

HANDLING_SECONDS = 20.0
"""For a batch of events, within the 30 s after which they are delivered again."""


class Fanout:
    """Handles `tweet.created.*`, `tweet.deleted.*` and `timeline.page.*`."""

    def __init__(
        self, truth: Truth, homes: FollowerHomes, pusher: Pusher, progress: ProgressStore, publisher: Publisher,
        clock: Clock, metrics: TimelineMetrics,
    ) -> None:  # fmt: skip
        self._truth, self._homes, self._pusher, self._progress = truth, homes, pusher, progress
        self._publisher, self._clock, self._metrics = publisher, clock, metrics
        self._deleted: Generations[int, bool] = Generations(100_000)

    async def handle_tweets(self, messages: list[Message]) -> Sequence[Handled]:
        """Events of tweets: deletions are remembered, creations delivered or queued."""
        created: dict[int, tweetpb.TweetCreated] = {}
        for index, message in enumerate(messages):
            if message.subject.startswith("tweet.deleted."):
                self._deleted.put(tweetpb.TweetDeleted.FromString(message.data).tweet_id, True)
            else:
                created[index] = tweetpb.TweetCreated.FromString(message.data)
        call = Call.background(self._clock, HANDLING_SECONDS)
        authors = {event.author_id for event in created.values()} - {0}
        current = await self._homes.ask(call, authors) if authors else {}
        results = await asyncio.gather(
            *(self._deliver(call, event, current.get(event.author_id)) for event in created.values()), return_exceptions=True
        )
        return await self._outcomes(len(messages), dict(zip(created, results, strict=True)))

    async def handle_pages(self, messages: list[Message]) -> Sequence[Handled]:
        """Pages of large authors' followers."""
        pages = [timelinepb.FanoutPage.FromString(message.data) for message in messages]
        call = Call.background(self._clock, HANDLING_SECONDS)
        results = await asyncio.gather(*(self._deliver_page(call, page) for page in pages), return_exceptions=True)
        return await self._outcomes(len(messages), dict(enumerate(results)))

    async def _outcomes(self, count: int, results: dict[int, PageDone | BaseException]) -> list[Handled]:
        """Writes the progress of what was done, then says what became of each message."""
        done = [result for result in results.values() if isinstance(result, PageDone)]
        if done:
            await self._progress.record(done)
        for page in done:
            if page.last_page:
                self._metrics.fanout_lag.observe(max(0.0, (self._clock.now_ms() - ids.time_ms(page.tweet_id)) / 1000))
        outcomes: list[Handled] = [None] * count
        for index, result in results.items():
            if isinstance(result, Exception):
                outcomes[index] = result
            elif isinstance(result, BaseException):
                raise result
        return outcomes

    async def _deliver(self, call: Call, event: tweetpb.TweetCreated, current: graphpb.FollowerList | None) -> PageDone:
        if not event.tweet_id or current is None:
            raise PermanentFailure("event without tweet or author")
        targets = current.follower_count
        if self._deleted.get(event.tweet_id):
            return PageDone(event.tweet_id, 0, Outcome.PUSHED, 0, 0, 0, True)
        if event.pull or targets > followers.PAGE:
            await self._pusher.push(event.tweet_id, self._homes.own(event.author_id), extra=1)
            if event.pull:
                return PageDone(event.tweet_id, 0, Outcome.PULL, targets, 0, 0, True)
            await self._announce(timelinepb.FanoutPage(tweet_id=event.tweet_id, author_id=event.author_id, page=1))
            return PageDone(event.tweet_id, 0, Outcome.PUSHED, 0, 0, 0, False)
        homes = await self._homes.of(call, current)
        pushed = await self._pusher.push(event.tweet_id, homes, extra=1)
        return PageDone(event.tweet_id, 0, pushed.outcome, len(homes.keys) - 1, pushed.delivered, pushed.inactive, True)

    async def _deliver_page(self, call: Call, page: timelinepb.FanoutPage) -> PageDone:
        if self._deleted.get(page.tweet_id):
            return PageDone(page.tweet_id, page.page, Outcome.PUSHED, 0, 0, 0, True)
        homes, last = await self._homes.page(call, page.author_id, page.after_user_id)
        pushed = await self._pusher.push(page.tweet_id, homes)
        if last:
            await self._announce(
                timelinepb.FanoutPage(tweet_id=page.tweet_id, author_id=page.author_id, page=page.page + 1, after_user_id=last)
            )
        return PageDone(
            page.tweet_id, page.page, pushed.outcome, len(homes.keys), pushed.delivered, pushed.inactive, not last)  # fmt: skip

    async def _announce(self, page: timelinepb.FanoutPage) -> None:
        """Queues the next page; a repetition within ten minutes is dropped by the stream, a later one pushes it once more."""
        subject = f"timeline.page.{page.author_id}"
        (failure,) = await self._publisher.publish(
            [Outgoing(subject, page.SerializeToString(), f"page:{page.tweet_id}.{page.page}")]
        )
        if failure is not None:
            raise Retry(1.0) from failure
