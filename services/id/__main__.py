"""The id service as a process: config → database → lease → serve."""

import asyncio
import os
import socket
import sys
import uuid
from contextlib import AsyncExitStack

from services.id.generator import Generator
from services.id.lease import Lease
from services.id.service import IdService
from services.id.store import LeaseStore
from services.runtime import logs, postgres, process
from services.runtime.clock import SystemClock
from services.runtime.config import Config
from services.runtime.metrics import Metrics
from services.runtime.pool import Settings
from services.runtime.process import Stop
from services.runtime.server import Server

SERVICE = "chirp.id.v1.IdService"
FEW_CONNECTIONS = Settings(min_size=1, max_size=2)
"""One statement in three seconds."""


async def main(stack: AsyncExitStack, config: Config) -> Stop:
    """Builds the process. It serves at once, and is healthy from its first lease on."""
    stop, metrics, clock = Stop(), Metrics("id"), SystemClock()
    log = logs.logger(config.log, "id", sys.stderr)
    connected = postgres.connect(config.postgres, "id", metrics, settings=FEW_CONNECTIONS)
    database = await stack.enter_async_context(connected)
    generator = Generator(clock)
    owner = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4()}"
    lease = Lease(LeaseStore(database), generator, clock, owner, log)
    keeper = asyncio.create_task(lease.keep(), name="worker lease")
    stack.push_async_callback(lease.release)
    stack.callback(keeper.cancel)
    stop.watch(keeper)
    server = Server(config, metrics, log, clock)
    server.add(IdService(generator, metrics), SERVICE)
    await stack.enter_async_context(server)
    return stop


if __name__ == "__main__":
    process.run(main, "id")
