"""The home window's parts that need no Redis: sentinel, parsing, candidates with floors."""

from hypothesis import given
from hypothesis import strategies as st

from services.runtime import ids
from services.runtime.resp import RedisError
from services.timeline import window
from services.timeline.sources import Source, Stretch, merge, of_window
from services.timeline.window import LATENESS_MS, Sentinel, Window

NOW = 1_800_000_000_000
sentinels = st.builds(
    Sentinel,
    ready=st.booleans(),
    nonce=st.integers(1, 2**31),
    follow_revision=st.integers(0, 2**40),
    built_id=st.integers(0, 2**62),
    floor_id=st.integers(0, 2**62),
    started_ms=st.integers(0, 2**42),
)


def ready(floor: int = 0, revision: int = 0, started_ms: int = NOW) -> Sentinel:
    return Sentinel(True, 7, revision, 0, floor, started_ms)


@given(sentinels)
def test_a_sentinel_reads_back_as_written(sentinel: Sentinel) -> None:
    assert Sentinel.decode(sentinel.encode()) == sentinel


def test_a_missing_list_and_a_tail_that_is_no_sentinel_are_no_window() -> None:
    assert Sentinel.decode(None) is None
    assert Sentinel.decode(b"123") is None


def test_a_window_serves_readers_up_to_the_revision_it_was_built_at() -> None:
    assert ready(revision=5).serves(5, NOW)
    assert not ready(revision=5).serves(6, NOW)
    assert not Sentinel(False, 7, 9, 0, 0, NOW).serves(0, NOW), "it is still being built"
    assert not ready(started_ms=NOW - window.REBUILD_AFTER_MS).serves(0, NOW)


def test_a_build_is_believed_in_for_five_seconds() -> None:
    building = Sentinel(False, 7, 0, 0, 0, NOW)
    assert building.is_being_built(NOW + window.BUILD_PATIENCE_MS - 1)
    assert not building.is_being_built(NOW + window.BUILD_PATIENCE_MS)


def test_parsing_knows_whether_all_was_read() -> None:
    tail, later = ready().encode(), ready(floor=9).encode()
    assert window.parse([b"3", b"2", tail], later, 3) == Window((3, 2), ready(), whole=True)
    assert window.parse([b"3", b"2"], tail, 2) == Window((3, 2), ready(), whole=False)
    assert window.parse([tail], tail, 10) == Window((), ready(), whole=True)


def test_what_became_another_list_while_it_was_read_is_no_window() -> None:
    tail = ready().encode()
    assert window.parse([], tail, 10) is None
    assert window.parse([b"3", b"2"], tail, 10) is None
    assert window.parse([b"3"], None, 1) is None
    building = Sentinel(False, 7, 0, 0, 0, NOW)
    assert window.parse([b"3", building.encode()], tail, 10) == Window((3,), building, whole=True)


def test_what_is_no_list_of_ours_is_no_window() -> None:
    tail = ready().encode()
    assert window.parse(RedisError("WRONGTYPE"), RedisError("WRONGTYPE"), 10) is None
    assert window.parse([b"three", tail], tail, 10) is None
    assert window.parse([b"3", b"#r:of:another:version"], tail, 10) is None
    assert window.parse([b"3", b"2"], b"#r:1", 2) is None


def test_a_whole_window_vouches_down_to_its_floor() -> None:
    source = of_window(Window((9, 7, 9), ready(floor=4), whole=True))
    assert merge([source], 100) == Stretch([9, 7], 4)


def test_the_top_of_a_window_vouches_only_for_what_cannot_lie_deeper() -> None:
    oldest = ids.first_at(NOW)
    source = of_window(Window((oldest + 10, oldest), ready(floor=3), whole=False))
    assert source.floor == oldest + ids.span(LATENESS_MS)


def test_below_what_was_there_when_the_window_was_built_nothing_is_out_of_order() -> None:
    oldest = ids.first_at(NOW)
    sentinel = Sentinel(True, 7, 0, oldest + 5, 3, NOW)
    assert of_window(Window((oldest + 10, oldest), sentinel, whole=False)).floor == oldest - 1


@given(st.lists(st.tuples(st.sets(st.integers(1, 60)), st.integers(0, 60)), max_size=5), st.integers(1, 70))
def test_merged_sources_hold_what_all_of_them_vouch_for(parts: list[tuple[set[int], int]], ceiling: int) -> None:
    stretch = merge([Source(sorted(numbers), floor) for numbers, floor in parts], ceiling)
    highest = max((floor for _, floor in parts), default=0)
    expected = {number for numbers, _ in parts for number in numbers if highest < number < ceiling}
    assert stretch.floor == highest
    assert stretch.ids == sorted(expected, reverse=True)


@given(st.data())
def test_entries_pushed_out_of_order_are_never_missed_above_the_floor(data: st.DataObject) -> None:
    """A model of a window: built at some moment, in order; then entries are pushed up to LATENESS after their id's time.
    Whatever lies above the floor of the part that was read was read."""
    built_ms = data.draw(st.integers(0, 60_000))
    times = data.draw(st.lists(st.integers(0, 120_000), min_size=1, max_size=60, unique=True))
    pushes = [(time, time + data.draw(st.integers(0, LATENESS_MS))) for time in times]
    built = sorted((time for time, pushed in pushes if pushed <= built_ms), reverse=True)
    pushed_later = [time for time, pushed in sorted(pushes, key=lambda push: -push[1]) if pushed > built_ms]
    newest_first = [ids.first_at(NOW + time) for time in pushed_later + built]
    asked = data.draw(st.integers(1, len(newest_first)))
    sentinel = Sentinel(True, 7, 0, ids.first_at(NOW + built_ms - LATENESS_MS), 0, NOW)
    source = of_window(Window(tuple(newest_first[:asked]), sentinel, whole=False))
    assert [number for number in newest_first if number > source.floor and number not in source.ids] == []
