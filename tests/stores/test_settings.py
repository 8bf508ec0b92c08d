"""Run-time settings: typed, bounded, seen by every process within a second, harmless when Postgres or NATS is away."""

from collections.abc import AsyncIterator

import pytest

from chirp import errors
from services.runtime import jetstream, postgres, settings
from services.runtime.jetstream import Nats
from services.runtime.metrics import Metrics
from services.runtime.postgres import Database
from services.runtime.settings import Setting, Settings, whole
from tests.waiting import eventually

THRESHOLD = Setting("test.threshold", 10_000, whole(1, 1_000_000), "followers from which on something happens")
RATE = Setting("test.rate", 0.5, float, "of something, per second")
DECLARED = (THRESHOLD, RATE)
NOWHERE = ["nats://127.0.0.1:1"]


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    async with postgres.connect(database, "test", Metrics("test")) as opened:
        await opened.execute("truncate runtime.setting")
        yield opened


@pytest.fixture
async def nats(nats_url: str) -> AsyncIterator[Nats]:
    async with jetstream.connect([nats_url], "test", Metrics("test")) as opened:
        await opened.ready()
        yield opened


async def test_defaults_hold_until_somebody_changes_them(opened: Database, nats: Nats) -> None:
    async with Settings(opened, nats, DECLARED, Metrics("test")) as mine:
        assert (mine.get(THRESHOLD), mine.get(RATE)) == (10_000, 0.5)
        shown = await mine.update("test.threshold", "20")
        assert (shown.value, shown.default_value) == ("20", "10000")
        assert mine.get(THRESHOLD) == 20
        assert [(each.name, each.value) for each in await mine.list()] == [("test.rate", "0.5"), ("test.threshold", "20")]


async def test_others_hear_of_a_change_at_once(opened: Database, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "REFRESH_SECONDS", 30.0)
    async with Settings(opened, nats, DECLARED, Metrics("a")) as mine, Settings(opened, nats, DECLARED, Metrics("b")) as other:
        await nats.client.flush()
        await mine.update("test.threshold", "30")
        await eventually(lambda: other.get(THRESHOLD) == 30, timeout=2)


async def test_without_nats_it_takes_a_second(opened: Database) -> None:
    async with (
        jetstream.connect(NOWHERE, "test", Metrics("test")) as away,
        Settings(opened, away, DECLARED, Metrics("a")) as mine,
        Settings(opened, away, DECLARED, Metrics("b")) as other,
    ):
        await mine.update("test.threshold", "40")
        await eventually(lambda: other.get(THRESHOLD) == 40, timeout=2)
        await opened.execute("delete from runtime.setting")
        await eventually(lambda: other.get(THRESHOLD) == 10_000, timeout=2)


async def test_a_value_of_the_wrong_kind_is_refused_everywhere(opened: Database, nats: Nats) -> None:
    async with Settings(opened, nats, DECLARED, Metrics("test")) as mine:
        for wrong in ("0", "many", "", "1.5", "\0", "9" * 5_000, "1000001"):
            with pytest.raises(errors.InvalidArgument) as refused:
                await mine.update("test.threshold", wrong)
            assert list(refused.value.violations) == [("value", "must be a whole number from 1 to 1000000")]
        with pytest.raises(errors.NotFound):
            await mine.update("test.unknown", "1")
        assert await opened.query("select count(*) from runtime.setting") == [(0,)]


async def test_a_stored_value_that_cannot_be_read_changes_nothing(opened: Database, nats: Nats) -> None:
    metrics = Metrics("test")
    async with Settings(opened, nats, DECLARED, metrics) as mine:
        await mine.update("test.threshold", "50")
        await opened.execute("update runtime.setting set value = 'nonsense'")
        await mine.refresh()
        await mine.refresh()
        assert mine.get(THRESHOLD) == 50
        assert metrics.registry.get_sample_value("chirp_settings_refused_total") == 1


async def test_defaults_serve_while_postgres_is_away(nats: Nats) -> None:
    async with (
        postgres.connect("host=127.0.0.1 port=1", "away", Metrics("test")) as away,
        Settings(away, nats, DECLARED, Metrics("test")) as mine,
    ):
        assert mine.get(THRESHOLD) == 10_000
