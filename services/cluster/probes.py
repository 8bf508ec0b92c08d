"""Questions to a process about its health; each answers within `TIMEOUT` seconds and never raises for "no"."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import Any

TIMEOUT = 2.0
PAUSE = 0.05
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection without a trace.

    After an orderly end the kernel keeps the port of the side that began it for a minute. Probes would leave hundreds,
    and some of them on ports where our own services want to listen when the cluster is started again.
    """
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.close()


async def http_ok(host: str, port: int, path: str) -> bool:
    """Whether GET answers 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request)
                status_line = await reader.readline()
                # To the end, so that the server is the side that closes.
                await reader.read()
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
    reset(writer)
    return True


async def grpc_serving(address: str, patience: float = 0.0) -> bool:
    """Whether the gRPC health service says that the whole process serves; asks again for up to `patience` seconds."""
    host, port = address.rsplit(":", 1)
    # A channel that finds nobody waits before it tries again; a plain connection tells at once.
    if not await tcp_open(host, int(port)):
        return False
    # Imported here because grpc takes 150 ms to load and most commands ask nobody.
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    deadline = time.monotonic() + patience
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        # The type stubs of grpc_health know no stub class.
        health: Any = health_pb2_grpc.HealthStub(channel)
        try:
            while True:
                reply = await health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
                if reply.status == health_pb2.HealthCheckResponse.SERVING or time.monotonic() > deadline:
                    return reply.status == health_pb2.HealthCheckResponse.SERVING
                await asyncio.sleep(PAUSE)
        except grpc.RpcError:
            return False
