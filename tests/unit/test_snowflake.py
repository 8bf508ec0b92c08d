"""The layout of ids, and the sequence of one worker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.id import snowflake
from services.runtime import ids

NOW = snowflake.EARLIEST_MS + 1_000_000


@given(
    st.integers(snowflake.EARLIEST_MS, snowflake.LATEST_MS),
    st.integers(0, snowflake.WORKERS - 1),
    st.integers(0, snowflake.SEQUENCES - 1),
)
def test_an_id_has_the_parts_it_was_made_of(time_ms: int, worker_id: int, sequence: int) -> None:
    made = snowflake.compose(time_ms, worker_id, sequence)

    assert snowflake.describe(made) == (time_ms, worker_id, sequence)
    assert 0 <= made < 1 << 63
    assert ids.time_ms(made) == time_ms


def test_the_layout_is_41_10_12_bits_from_2024() -> None:
    assert snowflake.compose(1_704_067_200_000, 0, 0) == 0
    assert snowflake.compose(1_704_067_200_001, 0, 0) == 1 << 22
    assert snowflake.compose(1_704_067_200_000, 1, 0) == 1 << 12
    assert snowflake.compose(snowflake.LATEST_MS, 1023, 4095) == (1 << 63) - 1


def test_a_millisecond_holds_4096_ids_and_not_one_more() -> None:
    sequence = snowflake.Sequence()
    sequence.begin(7, 0)

    runs = [sequence.run(NOW, 4_000), sequence.run(NOW, 4_000), sequence.run(NOW, 4_000)]

    assert [len(run) for run in runs] == [4_000, 96, 0]
    issued = [each for run in runs for each in run]
    assert issued == list(range(issued[0], issued[0] + 4_096))
    assert {snowflake.describe(each)[:2] for each in issued} == {(NOW, 7)}
    assert sequence.run(NOW + 1, 1)[0] == snowflake.compose(NOW + 1, 7)


def test_a_clock_behind_is_refused_before_the_sequence_moves() -> None:
    sequence = snowflake.Sequence()
    sequence.begin(7, 0)
    sequence.run(NOW, 5)

    with pytest.raises(snowflake.ClockBehind) as refused:
        sequence.run(NOW - 3, 1)

    assert refused.value.milliseconds == 3
    assert snowflake.describe(sequence.run(NOW, 1)[0]).sequence == 5


def test_another_worker_goes_on_after_every_millisecond_that_was_touched() -> None:
    sequence = snowflake.Sequence()
    sequence.begin(900, 0)
    last = sequence.run(NOW, 1)[0]

    sequence.begin(3, NOW - 100)

    assert not sequence.run(NOW, 1)
    assert sequence.run(NOW + 1, 1)[0] > last


def test_nothing_is_issued_in_the_millisecond_of_the_floor() -> None:
    sequence = snowflake.Sequence()
    sequence.begin(7, NOW)

    assert not sequence.run(NOW, 1)
    with pytest.raises(snowflake.ClockBehind):
        sequence.run(NOW - 1, 1)
    assert sequence.run(NOW + 1, 1)
