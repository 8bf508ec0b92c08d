"""What happens around every handler, in one order, whichever door a call came through.

An interceptor is bound to a method once, when the process starts, and gives hooks: `enter` when the call arrives, `received` and
`sent` for each message, `done` or `failed` when it has ended. Hooks are plain functions, so one interceptor serves all four kinds
of RPC, and `guarded.Guarded` runs them all in one coroutine per call.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.options import v1 as optionspb
from services.runtime import validation
from services.runtime.admission import Admission
from services.runtime.call import Call
from services.runtime.clock import Clock
from services.runtime.logs import LineLimit, Log
from services.runtime.methods import Method
from services.runtime.metrics import RpcMetrics
from services.runtime.viewer import Authenticator, NobodyAuthenticator

SHORTEST_USEFUL = 0.010
"""Seconds that a call must have left to be begun: less than a round trip to a store, so the answer would come too late."""
CLOCK_SLACK, RATIO_SLACK = 0.02, 0.04
"""The caller cancels at its exact deadline; the one here may be rounded up by 10 ms, and by 3 % (repeated headers)."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What one interceptor does around the calls of one method; None costs nothing."""

    enter: Callable[[Call], None] | None = None
    """When the call arrives; raising refuses it, and then neither `done` nor `failed` of the same interceptor runs."""
    received: Callable[[Call, Any], None] | None = None
    """For each message received; raising refuses the call."""
    sent: Callable[[Call], None] | None = None
    """For each message sent."""
    done: Callable[[Call], None] | None = None
    """When the call has ended well, the innermost interceptor first."""
    failed: Callable[[Call, BaseException], BaseException] | None = None
    """When it has not, likewise; returns the error for the interceptors further out, the same or another."""


class Interceptor(Protocol):
    """Something that happens around every call."""

    def bind(self, method: Method) -> Hooks:
        """The hooks for one method; called once per method at start."""
        ...


def standard(
    metrics: RpcMetrics, log: Log, sample: int, clock: Clock, admission: Admission, authenticator: Authenticator
) -> tuple[Interceptor, ...]:
    """The chain of every server, outermost first."""
    return (
        Counting(metrics, clock),  # outermost: counts every outcome, refused calls too
        AccessLog(log, sample, clock),  # after which every line carries the request id
        Errors(),  # anything raised further in leaves as a ServiceError; unknown exceptions become INTERNAL
        Deadline(),  # before any work: refuses calls with no time left to be of use
        Admitting(admission),  # before work that costs: token checks, parsing, the handler
        Viewer(authenticator),  # so that handlers never read metadata
        Validating(),  # innermost: handlers see only what the contract allows
    )


class Counting:
    """The grpc_server_* metrics."""

    def __init__(self, metrics: RpcMetrics, clock: Clock) -> None:
        self._metrics, self._monotonic = metrics, clock.monotonic

    def bind(self, method: Method) -> Hooks:
        """Counters of the method, bound once."""
        cell, monotonic = self._metrics.cell(method), self._monotonic
        ended = cell.ended

        def enter(call: Call) -> None:
            cell.started += 1

        def received(call: Call, message: Any) -> None:
            cell.received += 1

        def sent(call: Call) -> None:
            cell.sent += 1

        def done(call: Call) -> None:
            ended(0, monotonic() - call.started)

        def failed(call: Call, error: BaseException) -> BaseException:
            ended(_code(error).value[0], monotonic() - call.started)
            return error

        return Hooks(enter, received, sent, done, failed)


class AccessLog:
    """A line for every call that failed, for sampled ones that did not, and for each at level debug."""

    def __init__(self, log: Log, sample: int, clock: Clock) -> None:
        """`sample`: every n-th OK answer is logged at info; 0 none."""
        self._log, self._sample, self._clock = log, sample, clock
        self._limit = LineLimit(clock)
        self._ok_calls = 0

    def bind(self, method: Method) -> Hooks:
        """Costs nothing for OK answers unless they are to be logged."""
        wanted = self._sample or self._log.is_enabled_for(logging.DEBUG)
        return Hooks(done=self._done if wanted else None, failed=self._failed)

    def _done(self, call: Call) -> None:
        self._ok_calls += 1
        if self._sample and self._ok_calls % self._sample == 0:
            self._log.info("call", **self._fields(call, grpc.StatusCode.OK))
        else:
            self._log.debug("call", **self._fields(call, grpc.StatusCode.OK))

    def _failed(self, call: Call, error: BaseException) -> BaseException:
        code = _code(error)
        level = _LEVELS.get(code, logging.INFO)
        withheld = self._limit.admit() if self._log.is_enabled_for(level) else None
        if withheld is not None:
            more: dict[str, Any] = {"withheld": withheld} if withheld else {}
            if code is grpc.StatusCode.INTERNAL:
                more["exc_info"] = error.__cause__ or error
            self._log.log(level, "call failed", error=str(error), **self._fields(call, code), **more)
        return error

    def _fields(self, call: Call, code: grpc.StatusCode) -> dict[str, Any]:
        return {
            "method": call.method.full_name,
            "code": code.name,
            "ms": round((self._clock.monotonic() - call.started) * 1_000, 3),
            "request_id": call.request_id,
            "viewer_id": call.viewer_id,
        }


class Errors:
    """Turns whatever was raised into a ServiceError, and text that nobody wrote for callers into a correlation id."""

    def bind(self, method: Method) -> Hooks:
        """The same for every method."""
        return Hooks(failed=self._failed)

    def _failed(self, call: Call, error: BaseException) -> BaseException:
        if isinstance(error, errors.ServiceError):
            return error
        if was_withdrawn(error):
            return _withdrawn(call)
        if isinstance(error, asyncio.CancelledError):
            # Without a status of its own the caller would wait for its whole deadline (grpc #29248).
            return errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "a part of the work was abandoned; try again")
        internal = errors.Internal(
            errorspb.ERROR_REASON_INTERNAL,
            f"internal error, logged as {call.request_id}",
            correlation_id=call.request_id,
        )
        internal.__cause__ = error
        return internal


class Deadline:
    """Refuses what could not be answered in time anyway."""

    def bind(self, method: Method) -> Hooks:
        """The same for every method."""

        def enter(call: Call) -> None:
            if call.deadline - call.started < SHORTEST_USEFUL:
                raise errors.DeadlineExceeded(
                    errorspb.ERROR_REASON_DEADLINE_TOO_SHORT,
                    f"less than {SHORTEST_USEFUL * 1_000:.0f} ms were left when the call arrived",
                )

        return Hooks(enter)


class Admitting:
    """Refuses what is too much."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def bind(self, method: Method) -> Hooks:
        """The gate of the method."""
        gate = self._admission.gate(method)

        def failed(call: Call, error: BaseException) -> BaseException:
            gate.leave(call)
            return error

        return Hooks(gate.enter, done=gate.leave, failed=failed)


class Viewer:
    """Finds out who asks, and refuses nobody where somebody is needed."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def bind(self, method: Method) -> Hooks:
        """Reads metadata only if there is a way to identify anybody."""
        needed = method.caller == optionspb.CALLER_USER
        if isinstance(self._authenticator, NobodyAuthenticator):
            return Hooks(Call.viewer) if needed else Hooks()  # pyright: ignore[reportArgumentType] its result is not used
        authenticate = self._authenticator.viewer

        def enter(call: Call) -> None:
            call.viewer_id = authenticate(call.metadata)
            if needed:
                call.viewer()

        return Hooks(enter)


class Validating:
    """Enforces the field rules of the contract on every message received."""

    def bind(self, method: Method) -> Hooks:
        """Nothing at all for a request without rules."""
        validate = validation.compiled(method.request_class)
        if validate is None:
            return Hooks()

        def received(call: Call, message: Any) -> None:
            validate(message)

        return Hooks(received=received)


def was_withdrawn(error: BaseException) -> bool:
    """Whether the call was ended from outside (peer gone, deadline, process stopping) rather than by the handler's own doing."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return not isinstance(error, Exception)


def _withdrawn(call: Call) -> errors.ServiceError:
    if call.remaining() < CLOCK_SLACK + RATIO_SLACK * (call.deadline - call.started):
        return errors.DeadlineExceeded(errorspb.ERROR_REASON_DEADLINE_EXCEEDED, "the caller's time ran out")
    return errors.Cancelled(errorspb.ERROR_REASON_CANCELLED, "the caller went away")


def _code(error: BaseException) -> grpc.StatusCode:
    return error.code if isinstance(error, errors.ServiceError) else grpc.StatusCode.UNKNOWN


_LEVELS = {
    grpc.StatusCode.INTERNAL: logging.ERROR,
    grpc.StatusCode.UNKNOWN: logging.ERROR,
    grpc.StatusCode.UNAVAILABLE: logging.WARNING,
    grpc.StatusCode.DEADLINE_EXCEEDED: logging.WARNING,
    grpc.StatusCode.RESOURCE_EXHAUSTED: logging.WARNING,
    grpc.StatusCode.CANCELLED: logging.DEBUG,
}
"""Level of a failure's line: ours are errors, trouble is a warning, the caller's own mistakes are information."""
