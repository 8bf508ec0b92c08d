"""One statement per tweet over 16 connections, committed one by one: `python -m loadtest.floors.inserts DSN SECONDS`.

The same rows as the tweet service writes (key, tweet, event) in one CTE, which is the fastest way without waiting for others.
Prints commits per second.
"""

import asyncio
import os
import sys
import time
from itertools import count

import psycopg
import uvloop

from services.runtime import ids
from services.runtime.process import set_batch_scheduling

CONNECTIONS = 16
STATEMENT = """
with claimed as (
    insert into tweet.idempotency (actor_id, request_id, payload_hash, tweet_id) values (%(author)s, %(key)s, %(hash)s, %(id)s)
    on conflict do nothing returning tweet_id
), written as (
    insert into tweet.tweet (tweet_id, author_id, conversation_id, create_time, kind, pull, text, entities)
    select tweet_id, %(author)s, tweet_id, clock_timestamp(), 1, false, %(text)s, '' from claimed
)
insert into tweet.outbox (partition, subject, payload) select %(partition)s, %(subject)s, %(payload)s from claimed
"""
TEXT = "A tweet of sixty-five characters, which is the median of real ones"


async def insert(dsn: str, seconds: float) -> float:
    """Commits as fast as 16 connections can."""
    numbers = count(ids.first_at(time.time_ns() // 1_000_000))
    done = 0
    end = time.perf_counter() + seconds

    async def work() -> None:
        nonlocal done
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            while time.perf_counter() < end:
                number = next(numbers)
                author = number % 1000
                await connection.execute(
                    STATEMENT,
                    {"author": author, "key": f"floor-{number}", "hash": b"0" * 32, "id": number, "text": TEXT,
                     "partition": author % 16, "subject": f"bench.created.{author}", "payload": b"0" * 40},
                )  # fmt: skip
                done += 1

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return done / (time.perf_counter() - began)


if __name__ == "__main__":
    set_batch_scheduling(os.environ)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(insert(sys.argv[1], float(sys.argv[2]))))
