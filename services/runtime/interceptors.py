"""What happens around every handler, in one order, whichever door a call came through.

An interceptor is bound to a method once, when the process starts, and gives up to four hooks: `enter` when the call
arrives, `received` and `sent` for each message, `leave` when it has ended. Hooks are plain functions, so one
interceptor serves all four kinds of RPC and `guarded.Guarded` runs them all in one coroutine per call. A hook that
raises refuses the call; `leave` may replace the error.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

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
"""Seconds that a call must have left to be begun: less than a round trip to a store, so the answer would come too late.
"""

Outcome: TypeAlias = BaseException | None
"""How a call ended: None for OK, a ServiceError, or, inside of `Errors`, whatever the handler raised."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What one interceptor does around the calls of one method; None costs nothing."""

    enter: Callable[[Call], None] | None = None
    received: Callable[[Call, Any], None] | None = None
    sent: Callable[[Call], None] | None = None
    leave: Callable[[Call, Outcome], Outcome] | None = None
    """Runs if its own `enter` did not raise, in reverse order; returns the outcome for the interceptors further out."""


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

        def enter(call: Call) -> None:
            cell.started += 1

        def received(call: Call, message: Any) -> None:
            cell.received += 1

        def sent(call: Call) -> None:
            cell.sent += 1

        def leave(call: Call, outcome: Outcome) -> Outcome:
            cell.ended(_code(outcome).value[0] if outcome else 0, monotonic() - call.started)
            return outcome

        return Hooks(enter, received, sent, leave)


class AccessLog:
    """A line for every call that failed, for sampled ones that did not, and for each at level debug."""

    def __init__(self, log: Log, sample: int, clock: Clock) -> None:
        """`sample`: every n-th OK answer is logged at info; 0 none."""
        self._log, self._sample, self._clock = log, sample, clock
        self._limit = LineLimit(clock)
        self._ok_calls = 0

    def bind(self, method: Method) -> Hooks:
        """Costs nothing for OK answers unless they are to be logged."""
        debug = self._log.is_enabled_for(10)

        def leave(call: Call, outcome: Outcome) -> Outcome:
            if outcome is not None:
                self._failed(call, outcome)
            elif debug or self._sample:
                self._ok(call)
            return outcome

        return Hooks(leave=leave)

    def _ok(self, call: Call) -> None:
        self._ok_calls += 1
        if self._sample and self._ok_calls % self._sample == 0:
            self._log.info("call", **self._fields(call, grpc.StatusCode.OK))
        else:
            self._log.debug("call", **self._fields(call, grpc.StatusCode.OK))

    def _failed(self, call: Call, outcome: BaseException) -> None:
        code = _code(outcome)
        level = _LEVELS.get(code, 20)
        if not self._log.is_enabled_for(level):
            return
        withheld = self._limit.admit()
        if withheld is None:
            return
        more: dict[str, Any] = {"withheld": withheld} if withheld else {}
        if code is grpc.StatusCode.INTERNAL:
            more["exc_info"] = outcome.__cause__ or outcome
        self._log.log(level, "call failed", error=str(outcome), **self._fields(call, code), **more)

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
        return Hooks(leave=self._leave)

    def _leave(self, call: Call, outcome: Outcome) -> Outcome:
        if outcome is None or isinstance(outcome, errors.ServiceError):
            return outcome
        if was_withdrawn(outcome):
            return _withdrawn(call)
        if isinstance(outcome, asyncio.CancelledError):
            # Without a status of its own the caller would wait for its whole deadline (grpc #29248).
            return errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "a part of the work was abandoned; try again")
        internal = errors.Internal(
            errorspb.ERROR_REASON_INTERNAL,
            f"internal error, logged as {call.request_id}",
            correlation_id=call.request_id,
        )
        internal.__cause__ = outcome
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

        def enter(call: Call) -> None:
            gate.enter()

        def leave(call: Call, outcome: Outcome) -> Outcome:
            gate.leave()
            return outcome

        return Hooks(enter, leave=leave)


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
    """Whether the call was ended from outside (peer gone, deadline, process stopping) rather than by the handler's own
    doing.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return not isinstance(error, Exception)


def _withdrawn(call: Call) -> errors.ServiceError:
    if call.remaining() <= 0:
        return errors.DeadlineExceeded(errorspb.ERROR_REASON_DEADLINE_EXCEEDED, "the caller's time ran out")
    return errors.Cancelled(errorspb.ERROR_REASON_CANCELLED, "the caller went away")


def _code(outcome: BaseException) -> grpc.StatusCode:
    return outcome.code if isinstance(outcome, errors.ServiceError) else grpc.StatusCode.UNKNOWN


_LEVELS = {
    grpc.StatusCode.INTERNAL: 40,
    grpc.StatusCode.UNKNOWN: 40,
    grpc.StatusCode.UNAVAILABLE: 30,
    grpc.StatusCode.DEADLINE_EXCEEDED: 30,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 30,
    grpc.StatusCode.CANCELLED: 10,
}
"""Level of a failure's line: ours are errors, trouble is a warning, the caller's own mistakes are information."""
