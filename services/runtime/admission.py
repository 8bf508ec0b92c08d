"""How much a process takes on at once: a limit per method, and by criticality when all together are too many."""

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.options import v1 as optionspb
from services.runtime.call import Call
from services.runtime.methods import Method

RETRY_AFTER = 0.25
"""Seconds a refused caller is told to wait: longer than a queue at its limit takes to drain at a millisecond a call."""
SHARES = {optionspb.CRITICALITY_SHEDDABLE: 0.7, optionspb.CRITICALITY_NORMAL: 0.9, optionspb.CRITICALITY_CRITICAL: 1.0}
"""What part of the process's total must be in progress before a call of that criticality is refused."""


class Admission:
    """The calls in progress in one process. Streams count for their method alone: an idle one costs nothing."""

    def __init__(self, total: int) -> None:
        """`total` unary calls in progress is all that this process takes."""
        self.total = total
        self.in_flight = 0

    def gate(self, method: Method) -> "Gate":
        """The gate of one method."""
        return Gate(self, method)


class Gate:
    """Admits the calls of one method; every admitted call leaves once."""

    __slots__ = ("_admission", "_limit", "_method", "_share", "_weight", "in_flight")

    def __init__(self, admission: Admission, method: Method) -> None:
        self._admission = admission
        self._method = method
        self._limit = method.max_in_flight
        self._weight = 0 if method.kind.replies_stream or method.kind.requests_stream else 1
        self._share = max(1, int(admission.total * SHARES[method.criticality])) if self._weight else admission.total + 1
        self.in_flight = 0

    def enter(self, call: Call) -> None:
        """Takes a call in; raises ResourceExhausted, with the time after which to come back, when there is no room."""
        admission = self._admission
        if self.in_flight >= self._limit or admission.in_flight >= self._share:
            raise self._refusal()
        self.in_flight += 1
        admission.in_flight += self._weight

    def leave(self, call: Call) -> None:
        """Gives the room back."""
        self.in_flight -= 1
        self._admission.in_flight -= self._weight

    def _refusal(self) -> errors.ResourceExhausted:
        whose = f"of {self._method.name}" if self.in_flight >= self._limit else "in this process"
        return errors.ResourceExhausted(
            errorspb.ERROR_REASON_OVERLOADED, f"too many calls {whose} are in progress", retry_after=RETRY_AFTER
        )
