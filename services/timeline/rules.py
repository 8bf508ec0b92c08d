"""Pure: what a reader may see in the home timeline.

The reply rule (expectations case 32): a reply is shown when the reader follows its author and the author it answers, or is
one of the two, or when an author answers themself.
"""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reference:
    """What rules need of a tweet. Immutable, so it is kept once per process however many homes hold the tweet."""

    tweet_id: int
    author_id: int
    in_reply_to_user_id: int
    """Author of the tweet it answers; 0 if it answers none."""
    pull: bool = False
    """Whether followers pull it instead of being pushed to."""


def follows_author(reader_id: int, followees: Collection[int], tweet: Reference) -> bool:
    """Whether the tweet's author is the reader or somebody whom the reader follows."""
    return tweet.author_id == reader_id or tweet.author_id in followees


def reply_fits(reader_id: int, followees: Collection[int], tweet: Reference) -> bool:
    """The reply rule, for a tweet whose author the reader follows or is."""
    parent = tweet.in_reply_to_user_id
    return not parent or tweet.author_id in (reader_id, parent) or parent == reader_id or parent in followees


def visible(reader_id: int, followees: Collection[int], tweet: Reference) -> bool:
    """Whether the tweet belongs in the reader's home: both of the above, as one expression (asked 20 times a page)."""
    author, parent = tweet.author_id, tweet.in_reply_to_user_id
    return author == reader_id or (author in followees and (not parent or parent in (author, reader_id) or parent in followees))
