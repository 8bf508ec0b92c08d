"""The fan-out worker as a process: `python -m services.timeline.fanout_worker`. Replicas share the events."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import nats.errors
from nats.js.errors import NotFoundError
from prometheus_client import Gauge

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime import jetstream, postgres, process
from services.runtime.clock import SystemClock
from services.runtime.config import Config
from services.runtime.consumer import Consumer, Handler
from services.runtime.deadletters import DeadLetters
from services.runtime.logs import logger
from services.runtime.metrics import Metrics
from services.runtime.ops import Backlog
from services.runtime.process import Stop
from services.runtime.publisher import Publisher
from services.runtime.rediscluster import RedisCluster
from services.runtime.redisnode import Patience
from services.runtime.server import Server
from services.timeline import assembly
from services.timeline.fanout import Fanout
from services.timeline.followers import FollowerHomes
from services.timeline.metrics import TimelineMetrics
from services.timeline.progress import ProgressStore
from services.timeline.push import Pusher

TWEETS = ("TWEET", "timeline-fanout", ())
PAGES = ("FANOUT", "timeline-pages", ())
STOP_SECONDS = 10.0
"""What a batch in hand gets to be finished when the process stops."""
FORGET_SECONDS = 60.0
SAMPLE_SECONDS = 5.0
PATIENT = Patience(reply=1.0)
"""Nobody waits for a push: a busy server is better waited for than given up, which would mean pushing once more."""


async def main(stack: AsyncExitStack, config: Config) -> Stop:
    """Builds the process."""
    stop, metrics, clock = Stop(), Metrics(config.process), SystemClock()
    log = logger(config.log, config.process, sys.stderr)
    database = await stack.enter_async_context(postgres.connect(config.postgres, "fanout", metrics))
    redis = await stack.enter_async_context(RedisCluster.open(config.redis, metrics, PATIENT))
    connection = jetstream.connect(
        config.nats, config.process, metrics, on_closed=lambda: stop.fail(RuntimeError("the NATS connection closed for good"))
    )
    nats = await stack.enter_async_context(connection)
    truth = await stack.enter_async_context(assembly.peers(config, metrics))
    counters, progress, letters = TimelineMetrics(metrics), ProgressStore(database), DeadLetters(database, nats)
    fanout = Fanout(truth, FollowerHomes(redis, truth), Pusher(redis, clock, counters), progress, Publisher(nats), clock, counters)
    tweets, pages = (Consumer(nats, *row, letters, metrics) for row in (TWEETS, PAGES))
    server = Server(config, metrics, log, clock)
    server.ops.dead_letters = letters
    server.ops.backlogs.append(lambda: backlogs((tweets, pages)))
    await stack.enter_async_context(server)
    await stack.enter_async_context(consuming(stop, tweets, fanout.handle_tweets))
    await stack.enter_async_context(consuming(stop, pages, fanout.handle_pages))
    await stack.enter_async_context(forgetting(stop, progress))
    await stack.enter_async_context(sampling(stop, (tweets, pages), metrics))
    return stop


@asynccontextmanager
async def consuming(stop: Stop, consumer: Consumer, handle: Handler) -> AsyncGenerator[None]:
    """Consumes meanwhile; leaving finishes the batch in hand and hands the rest to other replicas."""
    task = asyncio.create_task(consumer.run(handle), name=consumer.durable)
    stop.watch(task)
    try:
        yield
    finally:
        consumer.stop()
        await asyncio.wait([task], timeout=STOP_SECONDS)
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def forgetting(stop: Stop, progress: ProgressStore) -> AsyncGenerator[None]:
    """Deletes what is known of deliveries of more than a week ago, a slice a minute and more while there is more."""
    task = asyncio.create_task(_forget(progress), name="forgetting")
    stop.watch(task)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _forget(progress: ProgressStore) -> None:
    while True:
        try:
            gone = await progress.forget_old()
        except errors.ServiceError:
            gone = 0
        await asyncio.sleep(FORGET_SECONDS if gone == 0 else 1.0)


@asynccontextmanager
async def sampling(stop: Stop, consumers: Sequence[Consumer], metrics: Metrics) -> AsyncGenerator[None]:
    """Shows meanwhile as metrics what `backlogs` says; every replica shows what waits for all of them."""
    waiting = metrics.gauge("chirp_consumer_waiting", "Events that no replica has acknowledged yet.", ["consumer"])
    gauges = {_backlog(each): waiting.labels(each.durable) for each in consumers}
    task = asyncio.create_task(_sample(consumers, gauges), name="sampling")
    stop.watch(task)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _sample(consumers: Sequence[Consumer], gauges: Mapping[str, Gauge]) -> None:
    while True:
        with suppress(errors.ServiceError):
            found = {backlog.name: backlog.waiting for backlog in await backlogs(consumers)}
            for name, gauge in gauges.items():
                gauge.set(found.get(name, 0))
        await asyncio.sleep(SAMPLE_SECONDS)


def _backlog(consumer: Consumer) -> str:
    return f"consumer.{consumer.durable}"


async def backlogs(consumers: Sequence[Consumer]) -> list[Backlog]:
    """What waits for this worker and its replicas; raises Unavailable while NATS is away."""
    found: list[Backlog] = []
    for consumer in consumers:
        try:
            info = await consumer.info()
        except NotFoundError:
            continue  # no event was ever consumed
        except (nats.errors.Error, OSError) as error:
            raise errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "NATS cannot be asked what waits") from error
        found.append(Backlog(_backlog(consumer), (info.num_pending or 0) + (info.num_ack_pending or 0)))
    return found


if __name__ == "__main__":
    process.run(main, "fanout")
