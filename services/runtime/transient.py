"""Which failures pass by themselves: the one rule by which consumers, relays and coalescers tell weather from poison.

A transient failure is retried for ever and condemns nothing; any other failure belongs to the very item that met it.
"""

import asyncio

import grpc
import nats.errors
import psycopg

from chirp import errors

_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
    }
)
_KINDS = (OSError, asyncio.TimeoutError, asyncio.CancelledError, nats.errors.Error, psycopg.OperationalError)


def transient(error: BaseException) -> bool:
    """Whether the same work, unchanged, may succeed later: a part was away, too slow, full or in somebody's way.

    A cache that is away counts too: its client's errors are OSErrors or carry one of the codes above.
    """
    if isinstance(error, errors.ServiceError):
        return error.code in _CODES
    return isinstance(error, _KINDS)
