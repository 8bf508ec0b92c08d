"""What a reader may see, why, and how it is put on a page."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from chirp.user import v1 as userpb
from services.runtime import ids
from services.timeline import buckets, framing, rules
from services.timeline.explain import judge
from services.timeline.facts import Facts
from services.timeline.generations import Generations
from services.timeline.progress import Outcome, Progress, progress_of
from services.timeline.rules import Reference
from services.timeline.window import Sentinel, Window

ME, FRIEND, OTHER_FRIEND, STRANGER = 1, 2, 3, 9
FOLLOWEES = frozenset({FRIEND, OTHER_FRIEND})


@pytest.mark.parametrize(
    ("author", "answers", "seen"),
    [
        (FRIEND, 0, True),
        (STRANGER, 0, False),
        (ME, 0, True),
        (ME, STRANGER, True),
        (FRIEND, FRIEND, True),
        (FRIEND, OTHER_FRIEND, True),
        (FRIEND, STRANGER, False),
        (FRIEND, ME, True),
        (STRANGER, ME, False),
        (STRANGER, FRIEND, False),
    ],
)
def test_the_reply_rule(author: int, answers: int, seen: bool) -> None:
    assert rules.visible(ME, FOLLOWEES, Reference(100, author, answers)) is seen


@given(st.integers(1, 4), st.sets(st.integers(1, 4)), st.integers(1, 4), st.integers(0, 4))
def test_the_one_expression_says_what_the_two_rules_say(reader: int, followees: set[int], author: int, parent: int) -> None:
    tweet = Reference(100, author, parent)
    both = rules.follows_author(reader, followees, tweet) and rules.reply_fits(reader, followees, tweet)
    assert rules.visible(reader, followees, tweet) is both


def facts(pull: set[int] | None = None) -> Facts:
    return Facts(ME, FOLLOWEES, 1, pull or set(), 0)


def window_of(*numbers: int, floor: int = 0) -> Window:
    return Window(numbers, Sentinel(True, 1, 1, 0, floor, 0), whole=True)


@pytest.mark.parametrize(
    ("tweet", "pull", "window", "verdict"),
    [
        (Reference(50, ME, 0), set(), None, timelinepb.ENTRY_VERDICT_SHOWN_OWN),
        (Reference(50, STRANGER, 0), set(), window_of(50), timelinepb.ENTRY_VERDICT_NOT_FOLLOWING),
        (Reference(50, FRIEND, STRANGER), set(), window_of(50), timelinepb.ENTRY_VERDICT_REPLY_TO_STRANGER),
        (Reference(50, FRIEND, 0), set(), window_of(50), timelinepb.ENTRY_VERDICT_SHOWN_FROM_WINDOW),
        (Reference(50, FRIEND, 0), {FRIEND}, window_of(51), timelinepb.ENTRY_VERDICT_SHOWN_PULLED),
        (Reference(50, FRIEND, 0), set(), window_of(61, floor=60), timelinepb.ENTRY_VERDICT_SHOWN_BELOW_WINDOW),
        (Reference(50, FRIEND, 0), set(), None, timelinepb.ENTRY_VERDICT_SHOWN_BELOW_WINDOW),
        (Reference(50, FRIEND, 0), set(), window_of(49), timelinepb.ENTRY_VERDICT_DELIVERY_PENDING),
    ],
)
def test_the_explanation_of_an_entry(tweet: Reference, pull: set[int], window: Window | None, verdict: int) -> None:
    answer = judge(facts(pull), tweet, window)
    assert answer.verdict == verdict
    assert answer.shown == timelinepb.EntryVerdict.Name(answer.verdict).startswith("ENTRY_VERDICT_SHOWN")


@pytest.mark.parametrize(
    ("count", "bound"), [(-1, 0), (0, 0), (1, 1), (2, 2), (4, 2), (5, 5), (9, 5), (10, 10), (19, 10), (99, 50), (3035, 2000)]
)
def test_counts_of_followers_are_shown_as_lower_bounds(count: int, bound: int) -> None:
    assert buckets.lower_bound(count) == bound


@given(st.integers(1, 10**12))
def test_a_bucket_is_never_above_the_count_nor_far_below(count: int) -> None:
    assert buckets.lower_bound(count) <= count < buckets.lower_bound(count) * 2.5 + 1


@given(st.lists(st.tuples(st.text(max_size=400), st.text(max_size=20)), max_size=5))
def test_a_joined_page_is_the_message_it_stands_for(contents: list[tuple[str, str]]) -> None:
    expected = timelinepb.GetHomeTimelineResponse(next_page_token="next")
    joined = b""
    for text, name in contents:
        tweet, author = tweetpb.Tweet(tweet_id=5, text=text), userpb.UserSummary(user_id=7, username=name)
        expected.items.add(tweet=tweet, author=author)
        joined += framing.item(framing.first_field(tweet.SerializeToString()), framing.second_field(author.SerializeToString()))
    joined += timelinepb.GetHomeTimelineResponse(next_page_token="next").SerializeToString()
    assert timelinepb.GetHomeTimelineResponse.FromString(joined) == expected


def test_generations_keep_what_is_used_and_forget_what_is_not() -> None:
    kept: Generations[int, str] = Generations(2)
    for number in (1, 2, 3):
        kept.put(number, str(number))
    assert kept.get(1) == "1", "moves over to the young generation"
    kept.put(4, "4")
    assert kept.get(2) is None
    assert kept.get(1) == "1"
    kept.drop(1)
    assert kept.get(1) is None


@given(st.lists(st.integers(0, 50)))
def test_generations_hold_at_most_twice_their_capacity(numbers: list[int]) -> None:
    kept: Generations[int, int] = Generations(5)
    for number in numbers:
        kept.put(number, number)
        assert len(kept) <= 10
        assert kept.get(number) == number


def test_progress_of_a_tweet() -> None:
    tweet_id = ids.first_at(1_800_000_000_000)
    ended = 1_800_000_000_250
    assert progress_of(tweet_id, Outcome.PUSHED, 10, 7, 3, True, ended) == Progress("done", 10, 7, 3, 250)
    assert progress_of(tweet_id, Outcome.PUSHED, 10, 7, 3, False, ended) == Progress("running", 10, 7, 3, None)
    assert progress_of(tweet_id, Outcome.PULL, 10, 0, 0, True, ended) == Progress("pull", 10)
    assert progress_of(tweet_id, Outcome.INVALIDATED, 10, 0, 0, True, ended) == Progress("invalidated", 10, 0, 0, 250)
