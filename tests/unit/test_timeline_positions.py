"""Page tokens of timelines: nobody sees a tweet twice, and nothing late is missed within the re-scanned stretch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chirp import errors
from services.runtime import ids
from services.runtime.paging import PageTokens
from services.timeline.positions import MOST_SEEN, RESCAN_MS, TOP, Positions, Seen, refuse_both, seen_on_page

TOKENS = PageTokens(b"a key of sixteen bytes")
HOME = Positions(TOKENS, "home")
START = ids.first_at(1_800_000_000_000)
SECOND = ids.span(1000)


def test_tokens_read_back() -> None:
    seen = Seen(START, frozenset({START + 5, START + 9}), 77)
    assert HOME.decode_newer(1, HOME.encode_newer(1, seen)) == seen
    assert HOME.decode_older(1, HOME.encode_older(1, START)) == START
    assert HOME.decode_older(1, "") == TOP
    assert HOME.encode_older(1, None) == ""


def test_a_token_of_another_viewer_list_or_direction_is_refused() -> None:
    token = HOME.encode_older(1, START)
    for attempt in (
        lambda: HOME.decode_older(2, token),
        lambda: Positions(TOKENS, "profile.3").decode_older(1, token),
        lambda: HOME.decode_newer(1, token),
        lambda: HOME.decode_older(1, "nonsense!"),
    ):
        with pytest.raises(errors.InvalidArgument):
            attempt()


def test_the_error_names_the_field() -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        HOME.decode_newer(1, "x")
    assert [violation.field for violation in refused.value.violations] == ["after"]
    with pytest.raises(errors.InvalidArgument):
        refuse_both("a", "b")


def test_a_page_with_older_pages_below_counts_nothing_below_it_as_news() -> None:
    page = [START + 3 * SECOND, START + 2 * SECOND]
    assert seen_on_page(page, True, 1).bound >= page[-1] - 1


def test_the_whole_home_on_one_page_leaves_a_stretch_for_late_arrivals() -> None:
    page = [START + 3 * SECOND, START + 2 * SECOND]
    seen = seen_on_page(page, False, 1)
    assert seen.bound == page[0] - ids.span(RESCAN_MS)
    assert seen.ids == frozenset(page)


@given(st.lists(st.lists(st.integers(0, 200_000), unique=True, max_size=300), max_size=6))
def test_what_was_shown_is_never_news_again(polls: list[list[int]]) -> None:
    seen, shown = Seen(), set[int]()
    for milliseconds in polls:
        arrived = [START + ids.span(each) for each in milliseconds]
        news = {number for number in arrived if number > seen.bound and number not in seen.ids}
        assert not news & shown
        shown |= news
        seen = seen.with_shown(news, 1)
        assert len(seen.ids) <= MOST_SEEN
        assert all(number <= seen.bound or number in seen.ids for number in shown)


@given(st.integers(0, RESCAN_MS - 1))
def test_a_tweet_that_arrives_within_a_minute_below_the_newest_is_news(behind_ms: int) -> None:
    newest = START + ids.span(RESCAN_MS * 2)
    seen = Seen().with_shown([newest], 1)
    late = newest - ids.span(behind_ms) - 1
    assert late > seen.bound
    assert late not in seen.ids
