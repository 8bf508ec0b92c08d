"""chirp.ops.v1.OpsService of a process: operators' view of what it was given to show (dead letters, settings, backlogs, outbox)."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.ops import v1 as opspb
from services.runtime.call import Call
from services.runtime.paging import PageTokens, page_size

SERVICE = "chirp.ops.v1.OpsService"
NEWEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Backlog:
    """Something that waits: where, how many, and for how many seconds the oldest has (0 if nothing does, or it is not known)."""

    name: str
    waiting: int
    oldest_seconds: float = 0.0


Backlogs: TypeAlias = Callable[[], Awaitable[Sequence[Backlog]]]


class DeadLetters(Protocol):
    """The messages that were given up."""

    async def list(self, before: int, limit: int, include_resolved: bool) -> Sequence[opspb.DeadLetter]:
        """At most `limit` with a number below `before`, newest first."""
        ...

    async def replay(self, dead_letter_id: int) -> None:
        """Publishes it again and marks it; raises NotFound if there is none waiting under that number."""
        ...

    async def discard(self, dead_letter_id: int) -> None:
        """Marks it as settled by hand; raises NotFound if there is none waiting under that number."""
        ...


class Settings(Protocol):
    """The settings that can be changed at run time."""

    async def list(self) -> Sequence[opspb.Setting]:
        """All, by name."""
        ...

    async def update(self, name: str, value: str) -> opspb.Setting:
        """Changes one; raises NotFound for an unknown name, InvalidArgument for a value of the wrong kind."""
        ...


class Outbox(Protocol):
    """The published events of the services, which can be published again."""

    async def replay(self, schema: str, since_ms: int) -> int:
        """Number of events that will be published again: those of one service from Unix milliseconds `since_ms` on."""
        ...


@dataclass(slots=True)
class OpsSources:
    """What a process has to show; what it does not have stays out."""

    dead_letters: DeadLetters | None = None
    settings: Settings | None = None
    outbox: Outbox | None = None
    backlogs: list[Backlogs] = field(default_factory=list)


class Ops:
    """Serves OpsService. A process without a source answers an empty list, NOT_FOUND or UNIMPLEMENTED to a change."""

    def __init__(self, sources: OpsSources, tokens: PageTokens) -> None:
        self._sources, self._tokens = sources, tokens

    async def list_dead_letters(self, request: opspb.ListDeadLettersRequest, call: Call) -> opspb.ListDeadLettersResponse:
        """Newest first, by number."""
        kind = "dead-letters-all" if request.include_resolved else "dead-letters"
        size = page_size(request.page_size)
        (before,) = self._tokens.decode(request.page_token, kind, 0) or (NEWEST,)
        letters = self._sources.dead_letters
        found = list(await letters.list(before, size + 1, request.include_resolved)) if letters else []
        more = len(found) > size
        token = self._tokens.encode(kind, 0, [found[size - 1].dead_letter_id]) if more else ""
        return opspb.ListDeadLettersResponse(items=found[:size], next_page_token=token)

    async def replay_dead_letter(self, request: opspb.ReplayDeadLetterRequest, call: Call) -> opspb.ReplayDeadLetterResponse:
        """Publishes one again."""
        await self._dead_letters(request.dead_letter_id).replay(request.dead_letter_id)
        return opspb.ReplayDeadLetterResponse()

    async def discard_dead_letter(self, request: opspb.DiscardDeadLetterRequest, call: Call) -> opspb.DiscardDeadLetterResponse:
        """Settles one by hand."""
        await self._dead_letters(request.dead_letter_id).discard(request.dead_letter_id)
        return opspb.DiscardDeadLetterResponse()

    async def list_settings(self, request: opspb.ListSettingsRequest, call: Call) -> opspb.ListSettingsResponse:
        """All settings."""
        settings = self._sources.settings
        return opspb.ListSettingsResponse(items=await settings.list() if settings else [])

    async def update_setting(self, request: opspb.UpdateSettingRequest, call: Call) -> opspb.UpdateSettingResponse:
        """Changes one for the whole cluster."""
        if self._sources.settings is None:
            raise errors.NotFound(errorspb.ERROR_REASON_SETTING_NOT_FOUND, "this process keeps no settings", name=request.name)
        return opspb.UpdateSettingResponse(setting=await self._sources.settings.update(request.name, request.value))

    async def list_backlogs(self, request: opspb.ListBacklogsRequest, call: Call) -> opspb.ListBacklogsResponse:
        """What waits here."""
        lines = [line async for line in self._lines()]
        return opspb.ListBacklogsResponse(
            items=[opspb.Backlog(name=each.name, waiting_count=each.waiting, oldest_seconds=each.oldest_seconds) for each in lines]
        )

    async def replay_outbox(self, request: opspb.ReplayOutboxRequest, call: Call) -> opspb.ReplayOutboxResponse:
        """Has the relay publish events again."""
        if self._sources.outbox is None:
            raise errors.Unimplemented(errorspb.ERROR_REASON_UNIMPLEMENTED, "this process replays no outbox; ask the relay")
        count = await self._sources.outbox.replay(request.schema, request.since_time.ToMilliseconds())
        return opspb.ReplayOutboxResponse(event_count=count)

    def _dead_letters(self, dead_letter_id: int) -> DeadLetters:
        if self._sources.dead_letters is None:
            raise errors.NotFound(
                errorspb.ERROR_REASON_DEAD_LETTER_NOT_FOUND,
                "this process keeps no dead letters",
                dead_letter_id=dead_letter_id,
            )
        return self._sources.dead_letters

    async def _lines(self) -> AsyncIterator[Backlog]:
        for backlogs in self._sources.backlogs:
            for line in await backlogs():
                yield line
