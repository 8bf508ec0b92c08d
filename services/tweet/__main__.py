"""The tweet service as a process: config → backends and peers → parts → serve."""

import sys
from contextlib import AsyncExitStack

from chirp.graph import v1 as graphpb
from chirp.id import v1 as idpb
from chirp.user import v1 as userpb
from services.runtime import channel, jetstream, process
from services.runtime.channel import Channel
from services.runtime.clock import SystemClock
from services.runtime.config import Config
from services.runtime.logs import logger
from services.runtime.metrics import Metrics
from services.runtime.outbox import Bell
from services.runtime.process import Stop
from services.runtime.rediscluster import RedisCluster
from services.runtime.server import Server
from services.tweet import assembly, store
from services.tweet.writer import Peers

SERVICE = "chirp.tweet.v1.TweetService"


async def main(stack: AsyncExitStack, config: Config) -> Stop:
    """Builds the process."""
    stop, metrics, clock = Stop(), Metrics(config.process), SystemClock()
    log = logger(config.log, config.process, sys.stderr)
    backends = await _backends(stack, config, metrics)
    service = assembly.service(backends, config.tweet_max_length, metrics, log, clock)
    implementation = await stack.enter_async_context(service)
    server = Server(config, metrics, log, clock)
    server.add(implementation, SERVICE)
    await stack.enter_async_context(server)
    return stop


async def _backends(stack: AsyncExitStack, config: Config, metrics: Metrics) -> assembly.Backends:
    enter = stack.enter_async_context

    async def peer(name: str, service: str) -> Channel:
        return await enter(channel.connect(config.peer(name), service, metrics))

    nats = await enter(jetstream.connect(config.nats, config.process, metrics))
    return assembly.Backends(
        pools=await enter(store.connect(config.postgres, metrics)),
        redis=await enter(RedisCluster.open(config.redis, metrics)),
        bell=Bell(nats, store.SCHEMA),
        peers=Peers(
            idpb.IdServiceStub(await peer("id", "chirp.id.v1.IdService")),
            graphpb.GraphServiceStub(await peer("graph", "chirp.graph.v1.GraphService")),
        ),
        users=userpb.UserServiceStub(await peer("user", "chirp.user.v1.UserService")),
    )


if __name__ == "__main__":
    process.run(main, "tweet")
