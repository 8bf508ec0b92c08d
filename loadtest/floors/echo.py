"""A bare grpc.aio server that answers every call with the same bytes: `python -m loadtest.floors.echo PORT BYTES`.

Same scheduling, loop and library as the services; a raw handler, no interceptors, no messages. The least that a unary call costs.
"""

import asyncio
import os
import sys

import grpc
import uvloop

from services.runtime.process import set_batch_scheduling

METHOD = "/bench.Echo/Echo"


class Answer(grpc.GenericRpcHandler):
    """Answers METHOD."""

    def __init__(self, reply: bytes) -> None:
        async def echo(request: bytes, context: object) -> bytes:
            return reply

        self._handler = grpc.unary_unary_rpc_method_handler(echo)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Whatever is called."""
        return self._handler


async def serve(port: int, size: int) -> None:
    """Serves until killed."""
    server = grpc.aio.server(handlers=[Answer(os.urandom(size))])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("serving", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    set_batch_scheduling(os.environ)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), int(sys.argv[2])))
