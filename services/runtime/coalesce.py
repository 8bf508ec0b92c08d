"""Things that wait together are done together: one commit, one query or one call for all who ask in the meantime.

While a flush runs, the next batch collects; there is no timer, so one caller alone waits for nobody. Seven times the
rate of single commits at 64 callers, with every commit flushed to disk.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.metrics import Metrics
from services.runtime.transient import transient

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class _Waiting(NamedTuple, Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]


class Coalescer(Generic[Item, Answer]):
    """One committer for one kind of work.

    `flush` gets 1 to `max_batch` items and returns one answer each, in order; an answer that is an exception is raised
    to its caller alone. If flush itself raises, it must have done nothing: a transient error goes to all the batch,
    any other is traced to its items by halving the batch, so that a poisonous item fails alone. It runs in a task of
    its own: a caller who gives up disturbs nobody, and its item is dropped only while it has not been sent.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[Sequence[Answer | Exception]]],
        name: str,
        metrics: Metrics,
        *,
        max_batch: int = 256,
        max_waiting: int = 8192,
        linger: float = 0.0,
    ) -> None:
        """More than `max_waiting` callers are refused with ResourceExhausted. `name` labels the metrics.

        `linger`: seconds between a batch of several and the next, in which the callers just answered can come back: where
        a flush costs much however small it is, half-empty batches cost more than the wait. Who is alone never waits.
        """
        self._flush, self._name, self._max_batch, self._max_waiting = flush, name, max_batch, max_waiting
        self._linger = linger
        self._queue: deque[_Waiting[Item, Answer]] = deque()
        self._committer: asyncio.Task[None] | None = None
        self._sizes = metrics.histogram("chirp_coalesce_batch_size", "Items flushed together", ("name",), buckets=_SIZES).labels(
            name
        )
        metrics.gauge("chirp_coalesce_waiting", "Items not yet sent", ("name",)).labels(name).set_function(self._length)

    async def submit(self, item: Item) -> Answer:
        """The answer to one item, once the flush it took part in has ended."""
        if len(self._queue) >= self._max_waiting:
            raise errors.ResourceExhausted(errorspb.ERROR_REASON_OVERLOADED, f"too many wait for {self._name}", retry_after=0.2)
        waiting: _Waiting[Item, Answer] = _Waiting(item, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._committer is None:
            self._committer = asyncio.create_task(self._commit())
        return await waiting.answer

    async def close(self) -> None:
        """Waits until everything submitted is answered."""
        while self._committer:
            await asyncio.wait((self._committer,))

    def _length(self) -> int:
        return len(self._queue)

    async def _commit(self) -> None:
        try:
            while batch := self._take():
                self._sizes.observe(len(batch))
                await self._answer(batch)
                if self._linger and len(batch) > 1:
                    await asyncio.sleep(self._linger)
        finally:
            self._committer = None
            for waiting in self._queue:
                _settle(waiting.answer, _stopped())
            self._queue.clear()

    def _take(self) -> list[_Waiting[Item, Answer]]:
        batch: list[_Waiting[Item, Answer]] = []
        while self._queue and len(batch) < self._max_batch:
            waiting = self._queue.popleft()
            if not waiting.answer.done():
                batch.append(waiting)
        return batch

    async def _answer(self, batch: list[_Waiting[Item, Answer]]) -> None:
        answers = await self._attempt([waiting.item for waiting in batch])
        if isinstance(answers, Exception) and len(batch) > 1 and not transient(answers):
            await self._answer(batch[: len(batch) // 2])
            await self._answer(batch[len(batch) // 2 :])
            return
        if isinstance(answers, Exception):
            answers = [answers] * len(batch)
        elif len(answers) != len(batch):
            answers = [RuntimeError(f"{self._name}: {len(answers)} answers to {len(batch)} items")] * len(batch)
        for waiting, answer in zip(batch, answers, strict=True):
            _settle(waiting.answer, answer)

    async def _attempt(self, items: list[Item]) -> Sequence[Answer | Exception] | Exception:
        """The answers, or what flush raised; a cancellation that is not ours comes from below and is a failure too."""
        try:
            return await self._flush(items)
        except Exception as error:
            return error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                return _stopped()
            return errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, f"{self._name}: the work was cancelled")


def _stopped() -> errors.ServiceError:
    return errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "the process stops; the work may have been done")


def _settle(future: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
