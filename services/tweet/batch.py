"""Pure: items that are committed together although some of them have the same key."""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Protocol, TypeVar

from services.runtime.idempotency import reused


class Keyed(Protocol):
    """What a write is known by when it comes again."""

    @property
    def actor_id(self) -> int:
        """Whose key it is."""
        ...

    @property
    def request_id(self) -> str:
        """The key; empty for none."""
        ...

    @property
    def payload_hash(self) -> bytes:
        """Of what the key stands for."""
        ...


Item = TypeVar("Item", bound=Keyed)
Answer = TypeVar("Answer")
Commit = Callable[[list[Item]], Awaitable[Sequence[Answer | Exception]]]


async def once_each(items: Sequence[Item], commit: Commit[Item, Answer], on_replay: Callable[[], None]) -> list[Answer | Exception]:
    """Commits items of which the first of every key stands for all; one answer each, in order.

    The same payload gets the answer of the first, another one AlreadyExists, as if it had come later. A failure burns no
    key: then the next payload of that key is tried. `on_replay` is called for each success that is answered once more.
    Raises only what `commit` raised when nothing was done.
    """
    leaders = _leaders(items)
    leading = [index for index, leader in enumerate(leaders) if index == leader]
    answers: list[Answer | Exception] = [_UNANSWERED] * len(items)
    for index, answer in zip(leading, await commit([items[index] for index in leading]), strict=True):
        answers[index] = answer
    again: list[int] = []
    for index, leader in enumerate(leaders):
        if index == leader:
            continue
        failed = isinstance(answers[leader], Exception)
        if items[index].payload_hash == items[leader].payload_hash:
            answers[index] = answers[leader]
            if not failed:
                on_replay()
        elif failed:
            again.append(index)
        else:
            answers[index] = reused(items[index].request_id)
    if again:
        later = await _attempted([items[index] for index in again], commit, on_replay)
        for index, answer in zip(again, later, strict=True):
            answers[index] = answer
    return answers


async def _attempted(
    items: list[Item], commit: Commit[Item, Answer], on_replay: Callable[[], None]
) -> Sequence[Answer | Exception]:
    """What was committed before stands, whatever becomes of these."""
    try:
        return await once_each(items, commit, on_replay)
    except Exception as error:
        return [error] * len(items)


def _leaders(items: Sequence[Item]) -> list[int]:
    """For each item the index of the first one of its key; its own when it has no key."""
    first: dict[Hashable, int] = {}
    return [
        first.setdefault((item.actor_id, item.request_id), index) if item.request_id else index for index, item in enumerate(items)
    ]


_UNANSWERED = RuntimeError("no answer")
