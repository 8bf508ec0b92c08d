"""Composition root of the gateway: the services it shows, their peers, the application, the listener, an orderly stop."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from chirp.graph import v1 as graphpb
from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from chirp.user import v1 as userpb
from gateway.app import Application
from gateway.backends import Backends
from gateway.http import Listener
from gateway.telemetry import HttpMetrics
from services.runtime import logs, methods, process, viewer
from services.runtime.config import Config
from services.runtime.metrics import Metrics, MetricsServer
from services.runtime.process import Stop

SERVICES = {
    "chirp.user.v1.UserService": "user",
    "chirp.graph.v1.GraphService": "graph",
    "chirp.tweet.v1.TweetService": "tweet",
    "chirp.timeline.v1.TimelineService": "timeline",
}
"""The services whose annotated RPCs are shown, each with the process that serves it. A further one is a line here."""
CONTRACTS = (userpb, graphpb, tweetpb, timelinepb)
"""Imported for their descriptors, which a service's name is looked up in."""


async def main(stack: AsyncExitStack, config: Config) -> Stop:
    """Builds the process."""
    stop, metrics = Stop(), Metrics("gateway")
    log = logs.logger(config.log, "gateway", sys.stderr)
    services = {methods.service_descriptor(name): config.peer(peer) for name, peer in SERVICES.items()}
    backends = await stack.enter_async_context(Backends(services, metrics))
    application = Application(services, backends, viewer.authenticator(config), HttpMetrics(metrics.registry), log)
    scraped = MetricsServer(metrics, config.server.host, config.server.metrics_port, application.healthy)
    await stack.enter_async_context(scraped)
    slow = metrics.gauge("chirp_gateway_slow_requests", "Streams, and requests in progress for more than 25 ms.")
    slow.set_function(lambda: application.watched)
    listener = await stack.enter_async_context(serving(application, config))
    log.info("serving", host=config.server.host, http_port=listener.port, metrics_port=scraped.port)
    return stop


@asynccontextmanager
async def serving(application: Application, config: Config) -> AsyncGenerator[Listener]:
    """The listener while the process lives. Stop: not ready, linger, no new connections, end streams, let calls end."""
    async with Listener(application, config.server.host, config.http_port) as listener:
        yield listener
        application.draining = True
        await asyncio.sleep(config.server.linger)
        application.cut_off(streams=True)
        await listener.stop(config.server.grace, lambda: application.cut_off(streams=False))


if __name__ == "__main__":
    process.run(main, "gateway")
