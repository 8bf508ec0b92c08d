"""64 concurrent `js.publish` of nats-py: `python -m loadtest.floors.publish URL SECONDS`.

Prints acknowledged messages per second.
"""

import asyncio
import os
import sys
import time
import uuid

import nats
import uvloop

from services.runtime.process import set_batch_scheduling

CONCURRENT = 64
PAYLOAD = b"0" * 60


async def publish(url: str, seconds: float) -> float:
    """Into a stream of its own, file storage, one replica, removed afterwards."""
    connection = await nats.connect(url)
    stream = connection.jetstream()
    name = f"FLOOR{uuid.uuid4().hex[:8]}"
    await stream.add_stream(name=name, subjects=[f"floor.{name}.*"], duplicate_window=600)
    done = 0
    end = time.perf_counter() + seconds

    async def work(worker: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            message_id = f"{worker}:{done}"
            await stream.publish(f"floor.{name}.{worker}", PAYLOAD, headers={"Nats-Msg-Id": message_id})
            done += 1

    try:
        began = time.perf_counter()
        await asyncio.gather(*(work(worker) for worker in range(CONCURRENT)))
        return done / (time.perf_counter() - began)
    finally:
        await stream.delete_stream(name)
        await connection.close()


if __name__ == "__main__":
    set_batch_scheduling(os.environ)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(publish(sys.argv[1], float(sys.argv[2]))))
