"""The Postgres stage of posting, 64 waiting: `python -m loadtest.benches.stage DSN SECONDS`. Prints commits per second.

The tweet store's own statement behind the coalescer that the service uses; ids are made here, no other process is asked.
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from itertools import count

import uvloop

from loadtest.floors.inserts import TEXT
from services.runtime import ids
from services.runtime.coalesce import Coalescer
from services.runtime.metrics import Metrics
from services.runtime.process import set_batch_scheduling
from services.tweet import events, store
from services.tweet.model import Draft

WAITING = 64


async def commit(dsn: str, seconds: float) -> float:
    """Keeps 64 writers waiting."""
    metrics = Metrics("bench")
    numbers = count(ids.first_at(time.time_ns() // 1_000_000))
    done = 0
    async with store.connect(dsn, metrics) as pools:
        tweets = store.TweetStore(pools)

        async def flush(drafts: list[Draft]) -> Sequence[bool]:
            rows = [draft.stored(next(numbers), None) for draft in drafts]
            made = await tweets.insert(
                rows, [False] * len(rows), [(draft.request_id, draft.payload_hash) for draft in drafts],
                [events.created(row, False) for row in rows],
            )  # fmt: skip
            return [row.tweet_id in made for row in rows]

        coalescer: Coalescer[Draft, bool] = Coalescer(flush, name="bench", metrics=metrics)
        end = time.perf_counter() + seconds

        async def write(writer: int) -> None:
            nonlocal done
            while time.perf_counter() < end:
                draft = Draft(writer, TEXT, b"", 0, f"stage-{next(numbers)}", b"0" * 32)
                if not await coalescer.submit(draft):
                    raise RuntimeError("a tweet was not written")
                done += 1

        began = time.perf_counter()
        await asyncio.gather(*(write(writer) for writer in range(1, WAITING + 1)))
        elapsed = time.perf_counter() - began
        await coalescer.close()
    return done / elapsed


if __name__ == "__main__":
    set_batch_scheduling(os.environ)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(commit(sys.argv[1], float(sys.argv[2]))))
