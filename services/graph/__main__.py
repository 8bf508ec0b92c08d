"""The graph service as a process: config → backends and peer → parts → serve."""

import sys
from contextlib import AsyncExitStack

from chirp.user import v1 as userpb
from services.graph import assembly
from services.graph.limits import FOLLOW_LIMIT, PULL_THRESHOLD
from services.runtime import channel, jetstream, postgres, process
from services.runtime.clock import SystemClock
from services.runtime.config import Config
from services.runtime.logs import logger
from services.runtime.metrics import Metrics
from services.runtime.outbox import Bell
from services.runtime.paging import PageTokens
from services.runtime.process import Stop
from services.runtime.rediscluster import RedisCluster
from services.runtime.server import Server
from services.runtime.settings import Settings

SERVICE = "chirp.graph.v1.GraphService"


async def main(stack: AsyncExitStack, config: Config) -> Stop:
    """Builds the process."""
    stop, metrics, clock = Stop(), Metrics("graph"), SystemClock()
    log = logger(config.log, "graph", sys.stderr)
    backends = await _backends(stack, config, metrics)
    server = Server(config, metrics, log, clock)
    server.ops.settings = backends.settings
    server.add(assembly.service(backends, metrics, clock), SERVICE)
    await stack.enter_async_context(server)
    return stop


async def _backends(stack: AsyncExitStack, config: Config, metrics: Metrics) -> assembly.Backends:
    enter = stack.enter_async_context
    database = await enter(postgres.connect(config.postgres, "graph", metrics))
    nats = await enter(jetstream.connect(config.nats, "graph", metrics))
    peer = await enter(channel.connect(config.peer("user"), "chirp.user.v1.UserService", metrics))
    return assembly.Backends(
        database=database,
        redis=await enter(RedisCluster.open(config.redis, metrics)),
        bell=Bell(nats, "graph"),
        settings=await enter(Settings(database, nats, (PULL_THRESHOLD, FOLLOW_LIMIT), metrics)),
        users=userpb.UserServiceStub(peer),
        tokens=PageTokens(config.page_key),
    )


if __name__ == "__main__":
    process.run(main, "graph")
