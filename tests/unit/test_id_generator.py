"""When ids are issued, when the generator waits, and when it refuses."""

import time

import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from services.id import snowflake
from services.id.generator import Generator, Grant
from services.runtime.clock import ManualClock

NOW = snowflake.EARLIEST_MS + 1_000_000


class World:
    """A generator whose sleep is the passing of time."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.slept: list[float] = []
        self.generator = Generator(self.clock, self._sleep)

    def grant(self, worker_id: int = 5, floor_ms: int = 0, mark_ms: int = NOW + 6_000, seconds: float = 8.5) -> None:
        self.generator.admit(Grant(worker_id, floor_ms, mark_ms, self.clock.monotonic() + seconds))

    async def refused(self) -> errors.ServiceError:
        with pytest.raises(errors.Unavailable) as refusal:
            await self.generator.take(1)
        assert refusal.value.retry_after
        return refusal.value

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(max(seconds, 0.001))


async def test_no_grant_no_id() -> None:
    world = World()

    assert (await world.refused()).reason == errorspb.ERROR_REASON_LEASE_LOST
    assert not world.generator.able()


async def test_ten_thousand_ids_are_consecutive_runs_of_three_milliseconds() -> None:
    world = World()
    world.grant()

    taken = await world.generator.take(10_000)

    assert taken == sorted(set(taken))
    times = [snowflake.describe(each).time_ms for each in taken]
    assert [times.count(each) for each in sorted(set(times))] == [4_096, 4_096, 1_808]


async def test_a_small_step_back_is_waited_out() -> None:
    world = World()
    world.grant()
    (before,) = await world.generator.take(1)
    world.clock.step(NOW - 50)

    assert world.generator.able()
    (after,) = await world.generator.take(1)

    assert after > before
    assert sum(world.slept) == pytest.approx(0.050)


async def test_a_large_step_back_is_refused_until_the_clock_has_caught_up() -> None:
    world = World()
    world.grant(seconds=1_000)
    (before,) = await world.generator.take(1)
    world.clock.step(NOW - 51)

    assert (await world.refused()).reason == errorspb.ERROR_REASON_CLOCK_BEHIND
    assert not world.generator.able()
    world.clock.step(NOW)
    assert (await world.generator.take(1))[0] > before


async def test_no_id_at_the_monotonic_end_of_the_grant() -> None:
    world = World()
    world.grant(seconds=8.5)
    world.clock.advance(8.4999)
    world.clock.step(NOW)
    assert await world.generator.take(1)

    world.clock.advance(0.0001)

    assert (await world.refused()).reason == errorspb.ERROR_REASON_LEASE_LOST


async def test_no_id_above_the_mark_however_long_the_lease() -> None:
    world = World()
    world.grant(mark_ms=NOW)
    assert await world.generator.take(1)

    world.clock.step(NOW + 1)

    assert (await world.refused()).reason == errorspb.ERROR_REASON_LEASE_LOST
    world.grant(mark_ms=NOW + 1)
    assert await world.generator.take(1)


async def test_a_new_grant_of_another_worker_keeps_the_order() -> None:
    world = World()
    world.grant(worker_id=1_000)
    (before,) = await world.generator.take(1)
    world.generator.revoke()
    world.grant(worker_id=1)

    (after,) = await world.generator.take(1)

    assert after > before
    assert snowflake.describe(after).worker_id == 1


async def test_a_start_waits_until_the_clock_is_above_the_floor() -> None:
    world = World()
    world.grant(floor_ms=NOW + 20)

    (first,) = await world.generator.take(1)

    assert snowflake.describe(first).time_ms == NOW + 21
    world.generator.revoke()
    world.grant(worker_id=6, floor_ms=NOW + 1_000)
    assert (await world.refused()).reason == errorspb.ERROR_REASON_CLOCK_BEHIND


async def test_ids_cost_little_enough_to_fill_nine_tenths_of_the_format() -> None:
    """The format holds 4,096,000 ids a second; CPU time, since other tests share the cores."""
    world = World()
    world.grant(mark_ms=NOW + 60_000, seconds=60)
    began = time.process_time()

    for _ in range(40):
        await world.generator.take(10_000)

    assert 400_000 / (time.process_time() - began) >= 0.9 * 4_096_000
