"""The oracle of the fault tests must be able to fail: each planted fault is seen, and named by its invariant."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from services.runtime import ids
from tests.cluster.ledger import Act, EdgeEvent, Event, Ledger, Observed, Outcome, Reading, Reuse, Row, Write, check

ANN, BOB, CEM = 1, 2, 3
START = 1_800_000_000.0
REPLICAS = ("timeline", "timeline-1")


def at(second: float, sequence: int = 0) -> int:
    """The id of a tweet made then."""
    return ids.first_at(round((START + second) * 1000)) + sequence


FIRST, SECOND, GONE, OTHERS = at(10), at(11), at(12), at(13)
"""Ann's tweets, the third of them deleted, and Bob's."""


class History:
    """Bob and Cem follow Ann, Cem no longer; Ann posts three times and deletes the third, Bob posts once."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.follow_of_bob = self.write(Act.FOLLOW, BOB, 1, target=ANN)
        self.write(Act.FOLLOW, CEM, 2, target=ANN)
        self.unfollow = self.write(Act.UNFOLLOW, CEM, 3, target=ANN)
        self.first = self.write(Act.POST, ANN, 10, FIRST, text="one")
        self.second = self.write(Act.POST, ANN, 11, SECOND, text="two")
        self.write(Act.POST, ANN, 12, GONE, text="gone")
        self.others = self.write(Act.POST, BOB, 13, OTHERS, text="bob's")
        self.deletion = self.write(Act.DELETE, ANN, 14, target=GONE)
        self.ledger.reuses.append(Reuse(ANN, "post-10", "IDEMPOTENCY_KEY_REUSED"))
        self.seen = Observed(
            texts={FIRST: "one", SECOND: "two", GONE: None, OTHERS: "bob's"},
            profiles={ANN: [SECOND, FIRST], BOB: [OTHERS], CEM: []},
            homes={
                (replica, reader): list(home)
                for replica in REPLICAS
                for reader, home in ((ANN, [SECOND, FIRST]), (BOB, [OTHERS, SECOND, FIRST]), (CEM, []))
            },
            rows=[Row(FIRST, ANN, "one"), Row(SECOND, ANN, "two"), Row(GONE, ANN, None), Row(OTHERS, BOB, "bob's")],
            events=[*(Event("created", each) for each in (FIRST, SECOND, GONE, OTHERS)), Event("deleted", GONE)],
            edges={(BOB, ANN)},
            edge_events=[EdgeEvent(BOB, ANN, 1, True), EdgeEvent(CEM, ANN, 1, True), EdgeEvent(CEM, ANN, 2, False)],
        )
        self.read(BOB, 20, OTHERS, SECOND, FIRST)
        self.read(ANN, 20, SECOND, FIRST)

    def write(self, act: Act, actor: int, second: float, *tweet_ids: int, target: int = 0, text: str = "") -> Write:
        """An acknowledged write that took half a second."""
        began = START + second
        write = Write(act, actor, f"{act}-{second:g}", began, target, text, Outcome.OK, began + 0.5, list(tweet_ids))
        self.ledger.writes.append(write)
        return write

    def read(self, reader: int, second: float, *shown: int, whole: bool = True) -> None:
        """A home read in a tenth of a second."""
        self.ledger.readings.append(Reading(reader, "timeline", START + second, START + second + 0.1, shown, whole))

    @property
    def home(self) -> list[int]:
        """Bob's at the second replica."""
        return self.seen.homes[REPLICAS[1], BOB]

    def breaches(self) -> set[str]:
        """The invariants that do not hold."""
        return {breach.invariant for breach in check(self.ledger, self.seen)}


def test_a_history_in_order_has_no_breach() -> None:
    assert not check(History().ledger, History().seen)


def _unknown(history: History) -> None:
    history.second.outcome = Outcome.UNKNOWN


def _refused(history: History) -> None:
    history.ledger.fail(history.second, "NotFound")


def _internal(history: History) -> None:
    history.ledger.surprises.append("Internal")


def _lost(history: History) -> None:
    del history.seen.texts[FIRST]


def _altered(history: History) -> None:
    history.seen.texts[FIRST] = "on"


def _deleted_by_nobody(history: History) -> None:
    history.seen.texts[FIRST] = None


def _not_in_profile(history: History) -> None:
    history.seen.profiles[ANN].remove(FIRST)


def _profile_doubled(history: History) -> None:
    history.seen.profiles[ANN].append(FIRST)


def _profile_in_wrong_order(history: History) -> None:
    history.seen.profiles[ANN].reverse()


def _in_a_strange_profile(history: History) -> None:
    history.seen.profiles[CEM].append(FIRST)


def _not_in_home(history: History) -> None:
    history.home.remove(FIRST)


def _home_doubled(history: History) -> None:
    history.home.insert(1, SECOND)


def _home_in_wrong_order(history: History) -> None:
    history.home[:2] = [SECOND, OTHERS]


def _leaked_to_a_stranger(history: History) -> None:
    history.seen.homes[REPLICAS[0], ANN].insert(0, OTHERS)


def _kept_after_unfollow(history: History) -> None:
    history.seen.homes[REPLICAS[0], CEM].append(SECOND)


def _own_missing_at_once(history: History) -> None:
    history.read(ANN, 11.6, FIRST)


def _own_missing_above_the_bottom(history: History) -> None:
    history.read(BOB, 20, SECOND, FIRST, whole=False)


def _followed_missing_at_once(history: History) -> None:
    history.write(Act.FOLLOW, CEM, 30, target=ANN)
    history.read(CEM, 30.6, SECOND)


def _shown_at_once_after_unfollow(history: History) -> None:
    history.write(Act.UNFOLLOW, BOB, 30, target=ANN)
    history.read(BOB, 30.6, OTHERS, SECOND)


def _read_twice(history: History) -> None:
    history.read(BOB, 20, OTHERS, SECOND, SECOND, FIRST)


def _read_in_wrong_order(history: History) -> None:
    history.read(BOB, 20, OTHERS, FIRST, SECOND)


def _read_by_a_stranger(history: History) -> None:
    history.read(CEM, 9, FIRST)


def _read_after_deletion(history: History) -> None:
    history.read(BOB, 14.6, OTHERS, GONE, SECOND, FIRST)


def _readable_after_deletion(history: History) -> None:
    history.seen.texts[GONE] = "gone"


def _home_resurrects(history: History) -> None:
    history.home.insert(1, GONE)


def _profile_resurrects(history: History) -> None:
    history.seen.profiles[ANN].insert(0, GONE)


def _other_id_on_replay(history: History) -> None:
    history.second.tweet_ids.append(at(11, 1))


def _made_twice(history: History) -> None:
    history.seen.rows.append(Row(at(11, 1), ANN, "two"))
    history.seen.events.append(Event("created", at(11, 1)))


def _key_taken_again(history: History) -> None:
    history.ledger.reuses.append(Reuse(ANN, "post-11", ""))


def _key_refused_for_another_reason(history: History) -> None:
    history.ledger.reuses.append(Reuse(ANN, "post-11", "UNAVAILABLE"))


def _edge_lost(history: History) -> None:
    history.seen.edges.clear()
    history.seen.edge_events.append(EdgeEvent(BOB, ANN, 2, False))


def _edge_back(history: History) -> None:
    history.seen.edges.add((CEM, ANN))
    history.seen.edge_events.append(EdgeEvent(CEM, ANN, 3, True))


def _id_twice(history: History) -> None:
    history.second.tweet_ids[:] = [FIRST]


def _id_of_another_time(history: History) -> None:
    history.second.began -= 5
    history.second.ended -= 5


def _row_twice(history: History) -> None:
    history.seen.rows.append(history.seen.rows[0])


def _event_lost(history: History) -> None:
    history.seen.events.pop(0)


def _deletion_event_lost(history: History) -> None:
    history.seen.events.pop()


def _event_twice(history: History) -> None:
    history.seen.events.append(history.seen.events[0])


def _event_of_nothing(history: History) -> None:
    history.seen.events.append(Event("created", at(99)))


def _event_unpublished(history: History) -> None:
    history.seen.events[0] = dataclasses.replace(history.seen.events[0], published=False)


def _edge_event_unpublished(history: History) -> None:
    history.seen.edge_events[0] = dataclasses.replace(history.seen.edge_events[0], published=False)


def _edge_event_lost(history: History) -> None:
    history.seen.edge_events.pop()


def _edge_event_of_nothing(history: History) -> None:
    history.seen.edge_events.append(EdgeEvent(ANN, BOB, 1, True))


def _dead_letter(history: History) -> None:
    history.seen.dead_letters.append("tweet.created.1 undecodable")


FAULTS: list[tuple[Callable[[History], None], str]] = [
    (_unknown, "I8"),
    (_refused, "answer"),
    (_internal, "answer"),
    (_lost, "I1"),
    (_altered, "I1"),
    (_deleted_by_nobody, "I1"),
    (_not_in_profile, "I2"),
    (_profile_doubled, "I2"),
    (_profile_in_wrong_order, "I2"),
    (_in_a_strange_profile, "I2"),
    (_not_in_home, "I3"),
    (_home_doubled, "I3"),
    (_home_in_wrong_order, "I3"),
    (_leaked_to_a_stranger, "I3"),
    (_kept_after_unfollow, "I3"),
    (_own_missing_at_once, "I5"),
    (_own_missing_above_the_bottom, "I5"),
    (_followed_missing_at_once, "I5"),
    (_shown_at_once_after_unfollow, "I3"),
    (_read_twice, "I3"),
    (_read_in_wrong_order, "I3"),
    (_read_by_a_stranger, "I3"),
    (_read_after_deletion, "I6"),
    (_readable_after_deletion, "I6"),
    (_home_resurrects, "I6"),
    (_profile_resurrects, "I6"),
    (_other_id_on_replay, "I7"),
    (_made_twice, "I7"),
    (_key_taken_again, "I7"),
    (_key_refused_for_another_reason, "I7"),
    (_edge_lost, "I10"),
    (_edge_back, "I10"),
    (_id_twice, "I11"),
    (_id_of_another_time, "I11"),
    (_row_twice, "I11"),
    (_event_lost, "I12"),
    (_deletion_event_lost, "I12"),
    (_event_twice, "I12"),
    (_event_of_nothing, "I12"),
    (_event_unpublished, "I12"),
    (_edge_event_unpublished, "I12"),
    (_edge_event_lost, "I12"),
    (_edge_event_of_nothing, "I12"),
    (_dead_letter, "I13"),
]


@pytest.mark.parametrize(("plant", "invariant"), FAULTS, ids=lambda each: getattr(each, "__name__", each).strip("_"))
def test_a_planted_fault_is_seen(plant: Callable[[History], None], invariant: str) -> None:
    history = History()
    plant(history)
    assert invariant in history.breaches()


class TestWhatIsNoBreach:
    """A reading in the midst of things may show either state of what is under way."""

    @pytest.mark.parametrize("shown", [(OTHERS, GONE, SECOND, FIRST), (OTHERS, SECOND, FIRST)])
    def test_while_a_tweet_is_being_deleted(self, shown: tuple[int, ...]) -> None:
        history = History()
        history.read(BOB, 14.2, *shown)
        assert not history.breaches()

    @pytest.mark.parametrize("shown", [(SECOND, FIRST), (FIRST,)])
    def test_while_a_tweet_is_being_posted(self, shown: tuple[int, ...]) -> None:
        history = History()
        history.read(ANN, 11.2, *shown)
        assert not history.breaches()

    @pytest.mark.parametrize("shown", [(SECOND, FIRST), (SECOND,), ()])
    def test_while_somebody_is_being_followed(self, shown: tuple[int, ...]) -> None:
        history = History()
        history.write(Act.FOLLOW, CEM, 30, target=ANN)
        history.read(CEM, 30.2, *shown)
        history.write(Act.UNFOLLOW, CEM, 40, target=ANN)
        assert not history.breaches()

    def test_what_others_posted_may_be_under_way(self) -> None:
        history = History()
        history.read(BOB, 20, OTHERS)
        assert not history.breaches()

    def test_what_lies_below_the_page(self) -> None:
        history = History()
        history.read(ANN, 20, SECOND, whole=False)
        assert not history.breaches()

    def test_a_key_that_was_answered_twice_alike(self) -> None:
        history = History()
        history.ledger.ok(history.second, SECOND)
        assert not history.breaches()


def test_a_write_stays_unknown_until_it_is_answered() -> None:
    ledger = Ledger()
    write = ledger.invoke(Act.POST, ANN, "post-1", text="one")
    assert ledger.unknown() == [write]
    ledger.ok(write, FIRST)
    first_end = write.ended
    ledger.ok(write, FIRST)
    assert (ledger.unknown(), write.tweet_ids, write.ended) == ([], [FIRST, FIRST], first_end)
