"""Rows as messages and as events."""

from chirp.tweet import v1 as tweetpb
from services.runtime import ids, outbox
from services.tweet import events
from services.tweet.model import Draft, Stored, fence

TWEET_ID = ids.first_at(1_735_689_600_123) + 77
DRAFT = Draft(7, "hi @ann", b"", 0, "key", b"hash")


def test_an_original_starts_its_conversation() -> None:
    stored = DRAFT.stored(TWEET_ID, None)
    assert (stored.kind, stored.conversation_id, stored.in_reply_to_user_id) == (tweetpb.TWEET_KIND_ORIGINAL, TWEET_ID, 0)


def test_a_reply_joins_the_conversation_of_its_parent() -> None:
    parent = Stored(5, 8, tweetpb.TWEET_KIND_REPLY, 3, 9, 3, "first", b"")
    stored = DRAFT._replace(in_reply_to_tweet_id=5).stored(TWEET_ID, parent)
    assert stored == Stored(TWEET_ID, 7, tweetpb.TWEET_KIND_REPLY, 5, 8, 3, "hi @ann", b"")


def test_the_message_has_the_time_of_the_id_and_the_stored_entities() -> None:
    entity = tweetpb.TextEntity(kind=tweetpb.ENTITY_KIND_MENTION, start=3, end=7, value="ann")
    packed = tweetpb.Tweet(entities=[entity]).SerializeToString()
    tweet = DRAFT._replace(entities=packed).stored(TWEET_ID, None).to_proto()
    assert tweet.create_time.ToMilliseconds() == 1_735_689_600_123
    assert list(tweet.entities) == [entity]
    assert (tweet.tweet_id, tweet.author_id, tweet.text) == (TWEET_ID, 7, "hi @ann")


def test_events_are_of_the_author_and_hold_no_text() -> None:
    event = events.created(DRAFT.stored(TWEET_ID, None), pull=True)
    assert event.subject == "tweet.created.7"
    assert event.partition == outbox.partition(7)
    assert b"hi @ann" not in event.payload
    said = tweetpb.TweetCreated.FromString(event.payload)
    assert (said.tweet_id, said.author_id, said.pull, said.occur_time.ToMilliseconds()) == (TWEET_ID, 7, True, 1_735_689_600_123)
    gone = events.deleted(TWEET_ID, 7, 1_735_689_601_000)
    assert gone.subject == "tweet.deleted.7"
    assert gone.partition == event.partition
    assert tweetpb.TweetDeleted.FromString(gone.payload).occur_time.ToMilliseconds() == 1_735_689_601_000


def test_the_fence_of_an_author_shares_the_slot_of_their_home() -> None:
    assert fence(12) == "tweet:fence:{12}"
