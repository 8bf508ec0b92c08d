"""Coalescing: batches form while a flush runs, callers are independent of each other, poison is traced to its item."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.coalesce import Coalescer
from services.runtime.metrics import Metrics


class Recorder:
    """A flush that doubles numbers, fails for some, and can be held."""

    def __init__(self, poison: Sequence[int] = (), error: Exception | None = None) -> None:
        self.batches: list[list[int]] = []
        self.committed: list[int] = []
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self._poison, self._error = set(poison), error

    async def __call__(self, items: list[int]) -> list[int | Exception]:
        self.batches.append(items)
        self.begun.set()
        await asyncio.sleep(0)
        await self.open.wait()
        if self._error:
            raise self._error
        if self._poison & set(items):
            raise ValueError("poison")
        self.committed += items
        return [2 * item for item in items]


def coalescer(flush: Recorder, **options: int) -> Coalescer[int, int]:
    return Coalescer(flush, "test", Metrics("test"), **options)


def unavailable() -> errors.ServiceError:
    return errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "away")


async def test_what_comes_during_a_flush_goes_together() -> None:
    flush = Recorder()
    flush.open.clear()
    subject = coalescer(flush)
    first = asyncio.create_task(subject.submit(1))
    await flush.begun.wait()
    others = [asyncio.create_task(subject.submit(item)) for item in range(2, 50)]
    await asyncio.sleep(0)
    flush.open.set()
    assert await asyncio.gather(first, *others) == [2 * item for item in range(1, 50)]
    assert flush.batches == [[1], list(range(2, 50))]


async def test_one_turn_of_the_loop_is_one_batch_and_batches_are_bounded() -> None:
    flush = Recorder()
    subject = coalescer(flush, max_batch=10)
    assert await asyncio.gather(*(subject.submit(item) for item in range(25))) == [2 * item for item in range(25)]
    assert [len(batch) for batch in flush.batches] == [10, 10, 5]


async def test_those_who_were_answered_together_come_back_into_one_batch() -> None:
    flush = Recorder()
    subject: Coalescer[int, int] = Coalescer(flush, "test", Metrics("test"), linger=0.02)

    async def caller(number: int) -> None:
        await subject.submit(number)
        await asyncio.sleep(0.001 * number)
        await subject.submit(number)

    await asyncio.gather(*map(caller, range(4)))

    assert [len(batch) for batch in flush.batches] == [4, 4]


async def test_who_is_alone_waits_for_nobody() -> None:
    subject: Coalescer[int, int] = Coalescer(Recorder(), "test", Metrics("test"), linger=30.0)
    async with asyncio.timeout(1):
        await subject.submit(1)
        await subject.submit(2)


async def test_a_caller_who_gives_up_disturbs_nobody() -> None:
    flush = Recorder()
    flush.open.clear()
    subject = coalescer(flush)
    sent = [asyncio.create_task(subject.submit(item)) for item in (1, 2)]
    await flush.begun.wait()
    queued = [asyncio.create_task(subject.submit(item)) for item in (3, 4)]
    await asyncio.sleep(0)
    sent[0].cancel()
    queued[0].cancel()
    await asyncio.sleep(0)
    flush.open.set()
    assert [await sent[1], await queued[1]] == [4, 8]
    assert flush.committed == [1, 2, 4], "what was sent is committed, what was not is dropped"


async def test_a_poisonous_item_fails_alone() -> None:
    flush = Recorder(poison=[13])
    answers = await asyncio.gather(*map(coalescer(flush).submit, range(64)), return_exceptions=True)
    assert isinstance(answers[13], ValueError)
    assert [answer for item, answer in enumerate(answers) if item != 13] == [2 * item for item in range(64) if item != 13]
    assert len(flush.batches) <= 2 * 6 + 1


async def test_a_transient_failure_goes_to_all_and_is_not_repeated() -> None:
    flush = Recorder(error=unavailable())
    answers = await asyncio.gather(*map(coalescer(flush).submit, range(8)), return_exceptions=True)
    assert all(isinstance(answer, errors.Unavailable) for answer in answers)
    assert len(flush.batches) == 1


async def test_answers_may_be_exceptions() -> None:
    async def flush(items: list[int]) -> list[int | Exception]:
        return [ValueError(str(item)) if item % 2 else item for item in items]

    answers = await asyncio.gather(*map(Coalescer(flush, "test", Metrics("t")).submit, range(4)), return_exceptions=True)
    assert [repr(answer) for answer in answers] == ["0", "ValueError('1')", "2", "ValueError('3')"]


async def test_too_few_answers_are_a_fault_not_a_hang() -> None:
    async def flush(items: list[int]) -> list[int]:
        return items[1:]

    answers = await asyncio.gather(*map(Coalescer(flush, "test", Metrics("t")).submit, range(4)), return_exceptions=True)
    assert all(isinstance(answer, RuntimeError) for answer in answers)


async def test_a_cancellation_from_below_is_a_failure_not_a_hang() -> None:
    async def flush(items: list[int]) -> list[int]:
        raise asyncio.CancelledError

    subject = Coalescer(flush, "test", Metrics("t"))
    with pytest.raises(errors.Unavailable):
        await asyncio.wait_for(subject.submit(1), 1)
    with pytest.raises(errors.Unavailable):
        await asyncio.wait_for(subject.submit(2), 1)


async def test_a_full_queue_refuses() -> None:
    flush = Recorder()
    flush.open.clear()
    subject = coalescer(flush, max_batch=1, max_waiting=2)
    waiting = [asyncio.create_task(subject.submit(item)) for item in range(3)]
    await flush.begun.wait()
    waiting.append(asyncio.create_task(subject.submit(3)))
    await asyncio.sleep(0)
    with pytest.raises(errors.ResourceExhausted):
        await subject.submit(4)
    flush.open.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, int)] == [0, 2, 6]


async def test_close_waits_for_the_answers() -> None:
    flush = Recorder()
    subject = coalescer(flush)
    asked = asyncio.create_task(subject.submit(1))
    await asyncio.sleep(0)
    await subject.close()
    assert asked.done() or await asked == 2


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    poison=st.sets(st.integers(0, 160), max_size=6),
    given_up=st.sets(st.integers(0, 160), max_size=20),
    max_batch=st.integers(1, 32),
)
def test_everyone_gets_the_own_answer(sizes: list[int], poison: set[int], given_up: set[int], max_batch: int) -> None:
    """Whatever arrives when, fails or gives up: an answer belongs to its item, and an item is flushed at most once."""

    async def live() -> None:
        flush = Recorder(poison=sorted(poison))
        subject = coalescer(flush, max_batch=max_batch)
        tasks: list[asyncio.Task[int]] = []
        for size in sizes:
            tasks += [asyncio.create_task(subject.submit(len(tasks) + each)) for each in range(size)]
            await asyncio.sleep(0)
            for item in given_up & set(range(len(tasks))):
                tasks[item].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for item, answer in enumerate(answers):
            if isinstance(answer, asyncio.CancelledError):
                assert item in given_up
            elif item in poison:
                assert isinstance(answer, ValueError)
            else:
                assert answer == 2 * item
        assert len(flush.committed) == len(set(flush.committed))

    asyncio.run(live())
