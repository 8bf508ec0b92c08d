"""The timeline service as a process: config → backends → parts → serve."""

import sys
from contextlib import AsyncExitStack

from services.runtime import jetstream, postgres, process
from services.runtime.clock import SystemClock
from services.runtime.config import Config
from services.runtime.logs import logger
from services.runtime.metrics import Metrics
from services.runtime.paging import PageTokens
from services.runtime.process import Stop
from services.runtime.rediscluster import RedisCluster
from services.runtime.server import Server
from services.timeline import assembly
from services.timeline.progress import ProgressStore

SERVICE = "chirp.timeline.v1.TimelineService"


async def main(stack: AsyncExitStack, config: Config) -> Stop:
    """Builds the process."""
    stop, metrics, clock = Stop(), Metrics(config.process), SystemClock()
    log = logger(config.log, config.process, sys.stderr)
    database = await stack.enter_async_context(postgres.connect(config.postgres, "timeline", metrics))
    redis = await stack.enter_async_context(RedisCluster.open(config.redis, metrics))
    nats = await stack.enter_async_context(jetstream.connect(config.nats, "timeline", metrics))
    truth = await stack.enter_async_context(assembly.peers(config, metrics))
    parts = assembly.assemble(redis, truth, ProgressStore(database), PageTokens(config.page_key), metrics, clock)
    await stack.enter_async_context(parts.memory.listening(nats))
    server = Server(config, metrics, log, clock)
    server.add(parts.service, SERVICE, healthy=database.healthy)
    await stack.enter_async_context(server)
    return stop


if __name__ == "__main__":
    process.run(main, "timeline")
