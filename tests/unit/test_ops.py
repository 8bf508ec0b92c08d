"""OpsService over what a process gave it to show."""

from collections.abc import Sequence

import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.ops import v1 as opspb
from services.runtime.call import Call
from services.runtime.ops import Backlog, Ops, OpsSources
from services.runtime.paging import PageTokens

CALL = Call.background()


class Letters:
    """Dead letters 1 to 45, the even ones settled."""

    def __init__(self) -> None:
        self.replayed: list[int] = []
        self.discarded: list[int] = []

    async def list(self, before: int, limit: int, include_resolved: bool) -> Sequence[opspb.DeadLetter]:
        numbers = [number for number in range(45, 0, -1) if number < before and (include_resolved or number % 2)]
        return [opspb.DeadLetter(dead_letter_id=number) for number in numbers[:limit]]

    async def replay(self, dead_letter_id: int) -> None:
        self.replayed.append(dead_letter_id)

    async def discard(self, dead_letter_id: int) -> None:
        self.discarded.append(dead_letter_id)


class Threshold:
    """One setting."""

    async def list(self) -> Sequence[opspb.Setting]:
        return [opspb.Setting(name="graph.pull_threshold", value="10000")]

    async def update(self, name: str, value: str) -> opspb.Setting:
        return opspb.Setting(name=name, value=value)


class Outbox:
    """Replays as many events as there are milliseconds."""

    async def replay(self, schema: str, since_ms: int) -> int:
        return since_ms


def ops(**sources: object) -> Ops:
    return Ops(OpsSources(**sources), PageTokens(b"0123456789abcdef"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("include_resolved", "expected"), [(True, list(range(45, 0, -1))), (False, list(range(45, 0, -2)))])
async def test_dead_letters_are_paged_to_the_last(include_resolved: bool, expected: list[int]) -> None:
    service, seen, token = ops(dead_letters=Letters()), list[int](), ""
    while True:
        request = opspb.ListDeadLettersRequest(page_size=20, page_token=token, include_resolved=include_resolved)
        page = await service.list_dead_letters(request, CALL)
        seen += [letter.dead_letter_id for letter in page.items]
        token = page.next_page_token
        if not token:
            break

    assert seen == expected


async def test_the_token_of_one_list_is_not_good_for_the_other() -> None:
    service = ops(dead_letters=Letters())
    page = await service.list_dead_letters(opspb.ListDeadLettersRequest(), CALL)

    with pytest.raises(errors.InvalidArgument) as caught:
        await service.list_dead_letters(opspb.ListDeadLettersRequest(page_token=page.next_page_token, include_resolved=True), CALL)
    assert caught.value.reason == errorspb.ERROR_REASON_PAGE_TOKEN_INVALID


async def test_letters_are_replayed_and_discarded() -> None:
    letters = Letters()
    service = ops(dead_letters=letters)

    await service.replay_dead_letter(opspb.ReplayDeadLetterRequest(dead_letter_id=3), CALL)
    await service.discard_dead_letter(opspb.DiscardDeadLetterRequest(dead_letter_id=5), CALL)

    assert (letters.replayed, letters.discarded) == ([3], [5])


async def test_settings_and_outbox() -> None:
    service = ops(settings=Threshold(), outbox=Outbox())

    listed = await service.list_settings(opspb.ListSettingsRequest(), CALL)
    changed = await service.update_setting(opspb.UpdateSettingRequest(name="a", value="b"), CALL)
    request = opspb.ReplayOutboxRequest(schema="tweet")
    request.since_time.FromMilliseconds(12_345)

    assert listed.items[0].name == "graph.pull_threshold"
    assert (changed.setting.name, changed.setting.value) == ("a", "b")
    assert (await service.replay_outbox(request, CALL)).event_count == 12_345


async def test_backlogs_of_all_parts_are_listed() -> None:
    async def one() -> list[Backlog]:
        return [Backlog("a", 1)]

    async def other() -> list[Backlog]:
        return [Backlog("b", 2, 0.5), Backlog("c", 0)]

    listed = await ops(backlogs=[one, other]).list_backlogs(opspb.ListBacklogsRequest(), CALL)

    assert [(each.name, each.waiting_count, each.oldest_seconds) for each in listed.items] == [
        ("a", 1, 0.0),
        ("b", 2, 0.5),
        ("c", 0, 0.0),
    ]


async def test_a_process_without_sources_says_so() -> None:
    service = ops()

    assert not (await service.list_dead_letters(opspb.ListDeadLettersRequest(), CALL)).items
    assert not (await service.list_settings(opspb.ListSettingsRequest(), CALL)).items
    with pytest.raises(errors.NotFound):
        await service.discard_dead_letter(opspb.DiscardDeadLetterRequest(dead_letter_id=1), CALL)
    with pytest.raises(errors.NotFound):
        await service.update_setting(opspb.UpdateSettingRequest(name="a", value="b"), CALL)
    with pytest.raises(errors.Unimplemented):
        await service.replay_outbox(opspb.ReplayOutboxRequest(schema="tweet"), CALL)
