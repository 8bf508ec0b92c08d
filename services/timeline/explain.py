"""Why a tweet is, or is not, in a reader's home: the support question, answered by the read path's own parts."""

from dataclasses import dataclass

from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from services.runtime.call import Call
from services.runtime.clock import Clock
from services.runtime.rediscluster import RedisCluster
from services.runtime.resp import CacheUnavailable
from services.timeline import rules
from services.timeline.catalogue import reference_of
from services.timeline.facts import Facts, ReaderFacts
from services.timeline.rebuild import read_whole
from services.timeline.truth import Truth
from services.timeline.window import Window


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer."""

    shown: bool
    verdict: "timelinepb.EntryVerdict.ValueType"
    message: str


OWN = Verdict(True, timelinepb.ENTRY_VERDICT_SHOWN_OWN, "You wrote it: your own tweets are always in your home.")
FROM_WINDOW = Verdict(True, timelinepb.ENTRY_VERDICT_SHOWN_FROM_WINDOW, "It was delivered to your home.")
PULLED = Verdict(
    True,
    timelinepb.ENTRY_VERDICT_SHOWN_PULLED,
    "Its author has so many followers that you pull the tweet when you read.",
)
BELOW_WINDOW = Verdict(
    True,
    timelinepb.ENTRY_VERDICT_SHOWN_BELOW_WINDOW,
    "It is older than what your home keeps at hand; you meet it further down.",
)
PENDING = Verdict(
    False, timelinepb.ENTRY_VERDICT_DELIVERY_PENDING, "It is being delivered and will be in your home in a moment.")  # fmt: skip
NOT_FOUND = Verdict(False, timelinepb.ENTRY_VERDICT_NOT_FOUND, "There is no such tweet.")
DELETED = Verdict(False, timelinepb.ENTRY_VERDICT_DELETED, "It was deleted.")
NOT_FOLLOWING = Verdict(False, timelinepb.ENTRY_VERDICT_NOT_FOLLOWING, "You do not follow its author.")
REPLY_TO_STRANGER = Verdict(
    False, timelinepb.ENTRY_VERDICT_REPLY_TO_STRANGER,
    "It answers somebody whom you do not follow; follow both to see their conversation.")  # fmt: skip


class Explainer:
    """Answers by truth, facts and window."""

    def __init__(self, redis: RedisCluster, truth: Truth, facts: ReaderFacts, clock: Clock) -> None:
        self._redis, self._truth, self._facts, self._clock = redis, truth, facts, clock

    async def explain(self, call: Call, viewer_id: int, tweet_id: int) -> Verdict:
        """The verdict as of now."""
        (record,) = await self._truth.tweets(call, [tweet_id])
        if record.status != tweetpb.TWEET_STATUS_FOUND:
            return DELETED if record.status == tweetpb.TWEET_STATUS_DELETED else NOT_FOUND
        facts = await self._facts.load(call, viewer_id)
        try:
            found = await read_whole(self._redis, viewer_id)
        except CacheUnavailable:
            found = None
        serves = found is not None and found.sentinel.serves(facts.follow_revision, self._clock.now_ms())
        return judge(facts, reference_of(record.tweet), found if serves else None)


def judge(facts: Facts, tweet: rules.Reference, window: Window | None) -> Verdict:
    """Pure: the verdict on a tweet that exists. Without a window that serves, the next read takes the tweet from the truth."""
    if tweet.author_id == facts.viewer_id:
        return OWN
    if not rules.follows_author(facts.viewer_id, facts.followees, tweet):
        return NOT_FOLLOWING
    if not rules.reply_fits(facts.viewer_id, facts.followees, tweet):
        return REPLY_TO_STRANGER
    if window is not None and tweet.tweet_id in window.ids:
        return FROM_WINDOW
    if tweet.author_id in facts.pull_authors:
        return PULLED
    if window is None or tweet.tweet_id <= window.sentinel.floor_id:
        return BELOW_WINDOW
    return PENDING
