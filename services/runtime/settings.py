"""Settings that are changed while the cluster runs: declared in code with type and bounds, kept in runtime.setting.

PULL_THRESHOLD = Setting("graph.pull_threshold", 10_000, whole(1, 1_000_000_000), "followers from which …")
settings = Settings(database, nats, (PULL_THRESHOLD,), metrics)      # entered with `async with`
settings.get(PULL_THRESHOLD)                                         # no I/O; at most about a second old
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import nats.errors
from nats.aio.msg import Msg

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.ops import v1 as opspb
from services.runtime.jetstream import Nats
from services.runtime.metrics import Metrics
from services.runtime.postgres import Database

Value = TypeVar("Value")

CHANGED = "runtime.setting.changed"
"""The core NATS subject that announces a change; its loss costs a second."""
REFRESH_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Setting(Generic[Value]):
    """One declared setting. `parse` turns its text into the value, or raises ValueError saying what is allowed."""

    name: str
    default: Value
    parse: Callable[[str], Value]
    meaning: str
    """With its unit, for operators."""


def whole(least: int, greatest: int) -> Callable[[str], int]:
    """Parses a whole number within bounds, both included."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or not least <= number <= greatest:
            raise ValueError(f"must be a whole number from {least} to {greatest}")
        return number

    return parse


class Settings:
    """The settings that one process declares, with their present values. Serves defaults until Postgres was reached."""

    def __init__(self, database: Database, nats: Nats, declared: Sequence[Setting[Any]], metrics: Metrics) -> None:
        self._database, self._nats = database, nats
        self._declared = {setting.name: setting for setting in declared}
        self._values: dict[str, Any] = {setting.name: setting.default for setting in declared}
        self._texts: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._refreshing: asyncio.Task[None] | None = None
        self._refused = metrics.counter("chirp_settings_refused", "Stored settings that cannot be read")

    def get(self, setting: Setting[Value]) -> Value:
        """The present value of a declared setting."""
        return self._values[setting.name]

    async def list(self) -> Sequence[opspb.Setting]:
        """Every setting that this process declares, by name."""
        return [self._shown(name) for name in sorted(self._declared)]

    async def update(self, name: str, value: str) -> opspb.Setting:
        """Changes a setting for all processes. NotFound if this process declares none, InvalidArgument for its value."""
        setting = self._declared.get(name)
        if setting is None:
            raise errors.NotFound(errorspb.ERROR_REASON_SETTING_NOT_FOUND, f"there is no setting {name}", name=name)
        try:
            setting.parse(value)
        except ValueError as error:
            raise errors.InvalidArgument.field("value", str(error)) from error
        await self._database.execute(
            """
            insert into runtime.setting (name, value) values (%s, %s)
            on conflict (name) do update set value = excluded.value, update_time = clock_timestamp()
            """,
            (name, value),
        )
        await self.refresh()
        await self._announce()
        return self._shown(name)

    async def refresh(self) -> None:
        """Reads the stored values; what is not stored goes back to its default, what cannot be read stays as it is."""
        rows = await self._database.query("select name, value from runtime.setting", timeout=0.5)
        stored = {name: value for name, value in rows if name in self._declared}
        for name, setting in self._declared.items():
            self._take(setting, stored.get(name))

    async def __aenter__(self) -> Self:
        await self._refresh_quietly()
        self._refreshing = asyncio.create_task(self._refresh_for_ever())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._refreshing:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    def _shown(self, name: str) -> opspb.Setting:
        setting = self._declared[name]
        return opspb.Setting(name=name, value=str(self._values[name]), default_value=str(setting.default), meaning=setting.meaning)

    def _take(self, setting: Setting[Any], text: str | None) -> None:
        if text == self._texts.get(setting.name):
            return
        try:
            self._values[setting.name] = setting.default if text is None else setting.parse(text)
        except ValueError:
            self._refused.inc()
            _log.warning("setting %s is stored as %r, which cannot be read", setting.name, text)
        if text is None:
            self._texts.pop(setting.name, None)
        else:
            self._texts[setting.name] = text

    async def _announce(self) -> None:
        try:
            if self._nats.connected:
                await self._nats.client.publish(CHANGED)
        except (nats.errors.Error, OSError):
            return

    async def _refresh_for_ever(self) -> None:
        listening = False
        while True:
            if not listening and self._nats.connected:
                listening = await self._listen()
            try:
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            await self._refresh_quietly()

    async def _refresh_quietly(self) -> None:
        try:
            await self.refresh()
        except Exception as error:
            _log.debug("settings not refreshed: %s", error)

    async def _listen(self) -> bool:
        try:
            await self._nats.client.subscribe(CHANGED, cb=self._on_changed)
        except (nats.errors.Error, OSError):
            return False
        return True

    async def _on_changed(self, message: Msg) -> None:
        self._changed.set()
