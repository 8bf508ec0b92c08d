"""What a handler knows about the call it serves, whichever door the call came through."""

import math
import random
from collections.abc import Iterable, Mapping
from typing import Protocol, TypedDict

from google.protobuf.empty_pb2 import Empty

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.options import v1 as optionspb
from services.runtime.clock import Clock, SystemClock
from services.runtime.methods import DEFAULT_MAX_IN_FLIGHT, Kind, Method

REQUEST_ID_KEY = "x-request-id"
VIEWER_KEY = "x-user-id"
HOP_COST = 0.020
"""Seconds kept back from the peer, so that this process can still answer when the peer used up all it was given. On the wire grpc
may repeat a header it sent before that is up to 3 % longer; this side still ends the call at the exact time.
"""
LONGEST_HOP = 5.0
"""Seconds allowed to a peer when the caller set no deadline."""
LONGEST_REQUEST_ID = 128

BACKGROUND = Method(
    full_name="/background", service="background", name="background", kind=Kind.UNARY,
    request_class=Empty, response_class=Empty, caller=optionspb.CALLER_SERVICE,
    criticality=optionspb.CRITICALITY_NORMAL, max_in_flight=DEFAULT_MAX_IN_FLIGHT, success_status=200, idempotent=False,
)  # fmt: skip
"""The row that stands for work nobody called for."""


class Onward(TypedDict):
    """Keyword arguments of a stub's method: `await tweets.GetTweet(request, **call.onward())`."""

    timeout: float
    metadata: tuple[tuple[str, str], ...]


class Source(Protocol):
    """The door's side of a call, asked only for what is needed; a grpc.aio ServicerContext is one."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """What the peer sent along."""
        ...

    def peer(self) -> str:
        """Who the peer is, as an address."""
        ...


class Call:
    """One call in progress. Cancellation arrives as asyncio.CancelledError, as for any task."""

    __slots__ = (
        "_clock",
        "_metadata",
        "_onward",
        "_peer",
        "_request_id",
        "deadline",
        "method",
        "response_metadata",
        "source",
        "started",
        "viewer_id",
    )

    def __init__(
        self,
        method: Method,
        clock: Clock,
        deadline: float = math.inf,
        viewer_id: int = 0,
        request_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        peer: str = "",
        source: Source | None = None,
        started: float | None = None,
    ) -> None:
        """`deadline` in seconds of the clock's monotonic(); what is not given is read from `source` when first asked for."""
        self.method = method
        self.started = clock.monotonic() if started is None else started
        """When the call arrived, in seconds of the clock's monotonic()."""
        self.deadline = deadline
        self.viewer_id = viewer_id
        """The user on whose behalf the call is made; 0 for nobody."""
        self.response_metadata: list[tuple[str, str]] = []
        """Sent with the end of the answer."""
        self.source = source
        self._clock = clock
        self._request_id = request_id
        self._metadata = metadata
        self._peer = peer
        self._onward: tuple[tuple[str, str], ...] | None = None

    @staticmethod
    def background(
        clock: Clock | None = None, timeout: float = math.inf, request_id: str | None = None, viewer_id: int = 0
    ) -> "Call":
        """A call that a worker or a test makes of its own accord; `timeout` in seconds from now."""
        clock = clock or SystemClock()
        return Call(BACKGROUND, clock, clock.monotonic() + timeout, viewer_id, request_id, {})

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the peer sent along, text values only; the last of several values of a key."""
        if self._metadata is None:
            sent = (self.source.invocation_metadata() if self.source else None) or ()
            self._metadata = {key: value for key, value in sent if isinstance(value, str)}
        return self._metadata

    @property
    def request_id(self) -> str:
        """Names the request through all its hops, in logs and in INTERNAL errors: the peer's, or one made here."""
        if self._request_id is None:
            sent = self.metadata.get(REQUEST_ID_KEY, "")
            usable = 0 < len(sent) <= LONGEST_REQUEST_ID and sent.isascii() and sent.isprintable()
            self._request_id = sent if usable else f"{random.getrandbits(64):016x}"
        return self._request_id

    @property
    def peer(self) -> str:
        """Address of the peer as the door spells it; empty once the call has ended."""
        return self.source.peer() if self.source else self._peer

    def viewer(self) -> int:
        """The user on whose behalf the call is made; raises Unauthenticated when there is none."""
        if not self.viewer_id:
            raise errors.Unauthenticated(errorspb.ERROR_REASON_VIEWER_REQUIRED, "this call needs an identified user")
        return self.viewer_id

    def remaining(self) -> float:
        """Seconds until the deadline; infinite without one, negative after it."""
        return self.deadline - self._clock.monotonic()

    def onward(self, at_most: float = LONGEST_HOP) -> Onward:
        """What a call to a peer carries: the time left less 20 ms (never more than `at_most` seconds), request id and
        identity.

        Raises DeadlineExceeded when no time is left: the peer could only waste work.
        """
        timeout = min(self.deadline - self._clock.monotonic() - HOP_COST, at_most)
        if timeout <= 0:
            raise errors.DeadlineExceeded(errorspb.ERROR_REASON_DEADLINE_TOO_SHORT, "no time is left to ask a peer")
        if self._onward is None:
            self._onward = self._identity()
        return {"timeout": timeout, "metadata": self._onward}

    def _identity(self) -> tuple[tuple[str, str], ...]:
        request = (REQUEST_ID_KEY, self.request_id)
        return (request, (VIEWER_KEY, str(self.viewer_id))) if self.viewer_id else (request,)
