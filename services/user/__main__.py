"""The user service as a process: config → backends and peer → parts → serve."""

import sys
from contextlib import AsyncExitStack

from chirp.id import v1 as idpb
from services.runtime import channel, jetstream, postgres, process
from services.runtime.clock import SystemClock
from services.runtime.config import Config
from services.runtime.fences import Fences
from services.runtime.logs import logger
from services.runtime.metrics import Metrics
from services.runtime.outbox import Bell
from services.runtime.process import Stop
from services.runtime.rediscluster import RedisCluster
from services.runtime.server import Server
from services.user.events import UserEvents
from services.user.service import UserService
from services.user.store import UserStore

SERVICE = "chirp.user.v1.UserService"


async def main(stack: AsyncExitStack, config: Config) -> Stop:
    """Builds the process."""
    stop, metrics, clock = Stop(), Metrics("user"), SystemClock()
    log = logger(config.log, "user", sys.stderr)
    database = await stack.enter_async_context(postgres.connect(config.postgres, "user", metrics))
    redis = await stack.enter_async_context(RedisCluster.open(config.redis, metrics))
    nats = await stack.enter_async_context(jetstream.connect(config.nats, "user", metrics))
    peer = channel.connect(config.peer("id"), "chirp.id.v1.IdService", metrics)
    ids = idpb.IdServiceStub(await stack.enter_async_context(peer))
    events = UserEvents(metrics, clock)
    store = UserStore(database, events, metrics)
    server = Server(config, metrics, log, clock)
    server.add(UserService(store, ids, Fences(redis, clock), Bell(nats, "user"), events, clock), SERVICE)
    await stack.enter_async_context(server)
    return stop


if __name__ == "__main__":
    process.run(main, "user")
