"""What the tweet service announces, and what it counts. The rows of the outbox are committed with the tweets."""

from collections.abc import Sequence

from chirp.tweet import v1 as tweetpb
from services.runtime import ids, outbox
from services.runtime.metrics import Metrics
from services.tweet.model import Stored, timestamp

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_KINDS = {tweetpb.TWEET_KIND_ORIGINAL: "original", tweetpb.TWEET_KIND_REPLY: "reply"}


def created(tweet: Stored, pull: bool) -> outbox.Event:
    """TweetCreated on tweet.created.<author_id>; the text is not in it."""
    event = tweetpb.TweetCreated(
        tweet_id=tweet.tweet_id,
        author_id=tweet.author_id,
        kind=tweetpb.TweetKind.ValueType(tweet.kind),
        in_reply_to_tweet_id=tweet.in_reply_to_tweet_id,
        in_reply_to_user_id=tweet.in_reply_to_user_id,
        pull=pull,
        occur_time=timestamp(ids.time_ms(tweet.tweet_id)),
    )
    return outbox.event(f"tweet.created.{tweet.author_id}", tweet.author_id, event.SerializeToString())


def deleted(tweet_id: int, author_id: int, now_ms: int) -> outbox.Event:
    """TweetDeleted on tweet.deleted.<author_id>."""
    event = tweetpb.TweetDeleted(tweet_id=tweet_id, author_id=author_id, occur_time=timestamp(now_ms))
    return outbox.event(f"tweet.deleted.{author_id}", author_id, event.SerializeToString())


class Counts:
    """What happened, for dashboards; nothing here is high in cardinality and nothing fails."""

    def __init__(self, metrics: Metrics) -> None:
        made = metrics.counter("chirp_tweet_created", "Tweets committed, by kind.", ["kind"])
        self._made = {kind: made.labels(name) for kind, name in _KINDS.items()}
        self._deleted = metrics.counter("chirp_tweet_deleted", "Tweets turned into tombstones.")
        replays = metrics.counter("chirp_tweet_replays", "Writes answered from an earlier commit, by what.", ["write"])
        self._create_replays, self._delete_replays = replays.labels("create"), replays.labels("delete")
        sizes = metrics.histogram("chirp_tweet_batch_size", "Writes committed together.", ["write"], buckets=_SIZES)
        self._sizes = {name: sizes.labels(name) for name in ("create", "delete")}
        self._collisions = metrics.counter("chirp_tweet_id_collisions", "Ids that were in use already.")

    def created(self, tweets: Sequence[Stored]) -> None:
        """Tweets were committed together."""
        self._sizes["create"].observe(len(tweets))
        for kind, counter in self._made.items():
            counter.inc(sum(tweet.kind == kind for tweet in tweets))

    def deleted(self, count: int, batch: int) -> None:
        """So many tweets were deleted in a batch of so many deletions."""
        self._sizes["delete"].observe(batch)
        self._deleted.inc(count)

    def create_replayed(self) -> None:
        """A tweet was answered that an earlier request with the same key had made."""
        self._create_replays.inc()

    def delete_replayed(self) -> None:
        """A deletion was answered as it had been to an earlier request with the same key."""
        self._delete_replays.inc()

    def collided(self) -> None:
        """The database knew an id that the id service gave: two workers share a number, or its clock is wrong."""
        self._collisions.inc()
