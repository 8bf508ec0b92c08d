"""The audit's comparison: each kind of difference is seen, and nothing that is allowed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from loadtest.compare import LATENESS, Difference, Kind, Place, RawWindow, compare_answer, compare_window, read_window
from loadtest.truth import Expected

STEP = LATENESS // 10
"""A second of ids."""
READER, SETTLED = 1, 90 * STEP


def second(number: int) -> int:
    """The id of a tweet of that second."""
    return number * STEP


def truth(*seconds: int, pull: Sequence[int] = ()) -> list[Expected]:
    """A home, newest first."""
    return [Expected(second(each), 7, each in pull) for each in sorted(seconds, reverse=True)]


def window(*seconds: int, built: int = 0, floor: int = 0) -> RawWindow:
    """A list, newest push first."""
    return RawWindow([second(each) for each in seconds], 3, second(built), second(floor))


def found(differences: Sequence[Difference], place: Place) -> set[tuple[Kind, int]]:
    """Kinds and seconds."""
    assert all((each.user_id, each.place) == (READER, place) for each in differences)
    assert len(set(differences)) == len(differences)
    return {(each.kind, each.tweet_id // STEP) for each in differences}


def in_window(
    expected: list[Expected], lying: RawWindow, known: Sequence[int] = (), *, strict: bool = False
) -> set[tuple[Kind, int]]:
    """What is wrong with a window."""
    differences = compare_window(READER, expected, lying, SETTLED, [second(each) for each in known], strict=strict)
    return found(differences, Place.WINDOW)


def in_answer(expected: list[Expected], *seconds: int, whole: bool = True) -> set[tuple[Kind, int]]:
    """What is wrong with an answer."""
    served = [second(each) for each in seconds]
    return found(compare_answer(READER, expected, served, SETTLED, whole=whole), Place.ANSWER)


class TestWindows:
    @pytest.mark.parametrize(
        ("lying", "differences"),
        [
            (window(30, 20, 10), set()),
            (window(30, 10), {(Kind.MISSING, 20)}),
            (window(), {(Kind.MISSING, 10), (Kind.MISSING, 20), (Kind.MISSING, 30)}),
            (window(30, 25, 20, 10), {(Kind.EXTRA, 25)}),
            (window(30, 20, 20, 10), set()),
            (window(10, 30, 20), {(Kind.ORDER, 10)}),
            (window(30, 10, 20), set()),
            (window(10, 10, 30, 20), {(Kind.ORDER, 10)}),
        ],
    )
    def test_each_kind(self, lying: RawWindow, differences: set[tuple[Kind, int]]) -> None:
        assert in_window(truth(10, 20, 30), lying) == differences

    def test_an_entry_that_lies_there_twice_is_a_difference_only_to_the_strict(self) -> None:
        assert in_window(truth(10, 20, 30), window(30, 20, 20, 10)) == set()
        assert in_window(truth(10, 20, 30), window(30, 20, 20, 10), strict=True) == {(Kind.REPEATED, 20)}
        assert in_window(truth(10, 20), window(20, 10, 20, 10, 10), strict=True) == {(Kind.REPEATED, 10), (Kind.REPEATED, 20)}

    def test_entries_may_be_as_late_as_fan_out(self) -> None:
        assert in_window(truth(20, 30), window(20, 30)) == set()
        assert in_window(truth(19, 30), window(19, 30)) == {(Kind.ORDER, 19)}

    def test_nothing_is_missed_below_the_floor(self) -> None:
        assert in_window(truth(10, 20, 30), window(30, 20, floor=10)) == set()
        assert in_window(truth(10, 20, 30), window(30, floor=10)) == {(Kind.MISSING, 20)}

    def test_what_may_be_under_way_is_neither_missed_nor_too_much(self) -> None:
        assert in_window(truth(10, 95), window(10)) == set()
        assert in_window(truth(10), window(95, 10)) == set()
        assert in_window(truth(10, 90), window(10)) == {(Kind.MISSING, 90)}

    def test_what_is_pulled_is_there_only_from_the_building(self) -> None:
        home = truth(10, 20, 30, pull=(10, 30))
        assert in_window(home, window(20, 10, built=25)) == set()
        assert in_window(home, window(20, built=25)) == {(Kind.MISSING, 10)}
        assert in_window(home, window(30, 20, 10, built=25)) == set(), "pushed before the author was pulled"

    def test_what_is_left_over_from_before_is_known(self) -> None:
        assert in_window(truth(10), window(20, 10), known=[20]) == set()


class TestAnswers:
    @pytest.mark.parametrize(
        ("served", "differences"),
        [
            ((30, 20, 10), set()),
            ((30, 10), {(Kind.MISSING, 20)}),
            ((20, 10), {(Kind.MISSING, 30)}),
            ((30, 20), {(Kind.MISSING, 10)}),
            ((30, 25, 20, 10), {(Kind.EXTRA, 25)}),
            ((30, 20, 20, 10), {(Kind.REPEATED, 20)}),
            ((20, 30, 10), {(Kind.ORDER, 30)}),
            ((95, 30, 20, 10), set()),
            ((), {(Kind.MISSING, 10), (Kind.MISSING, 20), (Kind.MISSING, 30)}),
        ],
    )
    def test_each_kind(self, served: tuple[int, ...], differences: set[tuple[Kind, int]]) -> None:
        assert in_answer(truth(10, 20, 30), *served) == differences

    def test_what_lies_below_a_walk_broken_off_is_not_compared(self) -> None:
        assert in_answer(truth(10, 20, 30), 30, 20, whole=False) == set()
        assert in_answer(truth(10, 20, 30), 30, whole=False) == set()
        assert in_answer(truth(10, 20, 30), 20, whole=False) == {(Kind.MISSING, 30)}


class TestReadWindow:
    def test_entries_and_what_the_sentinel_says(self) -> None:
        found = read_window([b"30", b"20", b"#r:99:3:25:10:1700000000000"])
        assert found == RawWindow([30, 20], 3, 25, 10)

    @pytest.mark.parametrize("elements", [[], [b"30"], [b"30", b"#b:99:3:25:10:17"], [b"#r:1:2:3:4"], [b"#r:1:2:3:4:x"]])
    def test_what_is_no_window_or_not_yet(self, elements: list[bytes]) -> None:
        assert read_window(elements) is None
