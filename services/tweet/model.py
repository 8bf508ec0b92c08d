"""Tweets as they are stored, and what is about to be stored."""

from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.tweet import v1 as tweetpb
from services.runtime import ids


class Stored(NamedTuple):
    """A row of tweet.tweet, in the order in which the store selects it. A tombstone has neither text nor entities."""

    tweet_id: int
    author_id: int
    kind: int
    """A value of chirp.tweet.v1.TweetKind."""
    in_reply_to_tweet_id: int
    in_reply_to_user_id: int
    conversation_id: int
    text: str | None
    entities: bytes | None
    """The serialised repeated field Tweet.entities."""

    @property
    def deleted(self) -> bool:
        """Whether only the tombstone is left."""
        return self.text is None

    def to_proto(self) -> tweetpb.Tweet:
        """The tweet as callers see it; its time is in its id."""
        tweet = tweetpb.Tweet(
            tweet_id=self.tweet_id,
            author_id=self.author_id,
            kind=tweetpb.TweetKind.ValueType(self.kind),
            text=self.text or "",
            in_reply_to_tweet_id=self.in_reply_to_tweet_id,
            in_reply_to_user_id=self.in_reply_to_user_id,
            conversation_id=self.conversation_id,
            create_time=timestamp(ids.time_ms(self.tweet_id)),
        )
        if self.entities:
            tweet.MergeFromString(self.entities)
        return tweet


class Draft(NamedTuple):
    """A tweet that was found valid and waits to be committed."""

    actor_id: int
    """Who posts."""
    text: str
    entities: bytes
    in_reply_to_tweet_id: int
    """0 if it answers none."""
    request_id: str
    """The author's key; empty for none."""
    payload_hash: bytes
    """Of what the key stands for; empty without a key."""

    def stored(self, tweet_id: int, parent: Stored | None) -> Stored:
        """The row that it becomes under this id; `parent` is the tweet it answers."""
        return Stored(
            tweet_id=tweet_id,
            author_id=self.actor_id,
            kind=tweetpb.TWEET_KIND_REPLY if parent else tweetpb.TWEET_KIND_ORIGINAL,
            in_reply_to_tweet_id=self.in_reply_to_tweet_id,
            in_reply_to_user_id=parent.author_id if parent else 0,
            conversation_id=parent.conversation_id if parent else tweet_id,
            text=self.text,
            entities=self.entities,
        )


class Removal(NamedTuple):
    """A deletion that waits to be committed."""

    actor_id: int
    """Who deletes."""
    tweet_id: int
    request_id: str
    payload_hash: bytes


class Claim(NamedTuple):
    """What a key was used for, and the tweet as it is now."""

    payload_hash: bytes
    already_deleted: bool
    """What DeleteTweet answered first."""
    tweet: Stored


class Reference(NamedTuple):
    """What rules need to know of a tweet; immutable."""

    tweet_id: int
    author_id: int
    in_reply_to_user_id: int
    pull: bool


def timestamp(unix_ms: int) -> Timestamp:
    """A moment as messages have it."""
    seconds, milliseconds = divmod(unix_ms, 1_000)
    return Timestamp(seconds=seconds, nanos=milliseconds * 1_000_000)


def fence(user_id: int) -> str:
    """The fence of a user's own tweets."""
    return f"tweet:fence:{{{user_id}}}"


def not_found(tweet_id: int) -> errors.NotFound:
    """The error for a tweet that never was."""
    return errors.NotFound(errorspb.ERROR_REASON_TWEET_NOT_FOUND, f"tweet {tweet_id} does not exist", tweet_id=tweet_id)


def gone(tweet_id: int) -> errors.NotFound:
    """The error for a tweet that was deleted."""
    return errors.NotFound(errorspb.ERROR_REASON_TWEET_DELETED, f"tweet {tweet_id} was deleted", tweet_id=tweet_id)
