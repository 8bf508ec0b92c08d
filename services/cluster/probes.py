"""Questions to a process about its health; each answers within `TIMEOUT` seconds and never raises for "no"."""

from __future__ import annotations

import asyncio
from typing import Any

TIMEOUT = 2.0


async def http_ok(host: str, port: int, path: str) -> bool:
    """Whether GET answers 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request)
                status_line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return status_line.split()[1:2] == [b"200"]


async def tcp_open(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        async with asyncio.timeout(TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def grpc_serving(address: str, service: str = "") -> bool:
    """Whether the gRPC health service there says SERVING for the service ("" is the whole process)."""
    host, port = address.rsplit(":", 1)
    # A channel that finds nobody waits before it tries again; a plain connection tells at once.
    if not await tcp_open(host, int(port)):
        return False
    # Imported here because grpc takes 150 ms to load and most commands ask nobody.
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        # The type stubs of grpc_health know no stub class.
        health: Any = health_pb2_grpc.HealthStub(channel)
        try:
            reply = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
        except grpc.RpcError:
            return False
    return reply.status == health_pb2.HealthCheckResponse.SERVING
