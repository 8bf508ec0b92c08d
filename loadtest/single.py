"""A Redis Cluster of one node, for figures that speak of one node."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from services.cluster import redis_servers
from services.cluster.ports import BUS_OFFSET, FreePorts
from services.cluster.program import Program
from services.cluster.redis_servers import RedisServers


@asynccontextmanager
async def single_node(folder: Path) -> AsyncGenerator[str]:
    """Runs it until left; gives its address as CHIRP_REDIS wants it."""
    servers = RedisServers(folder, (FreePorts().take(BUS_OFFSET),))
    program = next(unit for unit in servers.units() if isinstance(unit, Program))
    if program.prepare is not None:
        await program.prepare()
    child = await asyncio.create_subprocess_exec(*program.argv, stdout=asyncio.subprocess.DEVNULL)
    try:
        while not await program.probe():  # noqa: ASYNC110 - the node is another process
            await asyncio.sleep(0.05)
        await redis_servers.form(servers.nodes)
        yield servers.addresses
    finally:
        child.terminate()
        await child.wait()
