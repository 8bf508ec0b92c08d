"""The chain: order, and that what was entered is left, once, in reverse, whatever happens between."""

import asyncio
from typing import Any

import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime import handlers, interceptors
from services.runtime.admission import Admission
from services.runtime.call import Call
from services.runtime.clock import ManualClock
from services.runtime.guarded import Guarded
from services.runtime.handlers import Handler
from services.runtime.interceptors import Hooks
from services.runtime.logs import LineLimit, silent
from services.runtime.methods import Method
from services.runtime.metrics import Metrics
from services.runtime.viewer import NobodyAuthenticator
from tests import probe
from tests.unit.test_handlers import Probe

pb: Any = probe.load()[0]
WENT = errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "went")


class Recording:
    """Writes down what it is told; refuses at `enter` when it is to."""

    def __init__(self, name: str, told: list[str], refuses: bool = False) -> None:
        self._name, self._told, self._refuses = name, told, refuses

    def bind(self, method: Method) -> Hooks:
        return Hooks(self._enter, self._received, self._sent, self._done, self._failed)

    def _enter(self, call: Call) -> None:
        if self._refuses:
            raise WENT
        self._told.append(f"+{self._name}")

    def _received(self, call: Call, message: Any) -> None:
        self._told.append(f"<{self._name}")

    def _sent(self, call: Call) -> None:
        self._told.append(f">{self._name}")

    def _done(self, call: Call) -> None:
        self._told.append(f"-{self._name}")

    def _failed(self, call: Call, error: BaseException) -> BaseException:
        self._told.append(f"-{self._name}:{type(error).__name__}")
        return error


class Raising:
    """Turns every error into WENT."""

    def bind(self, method: Method) -> Hooks:
        return Hooks(failed=lambda call, error: WENT)


def handler(name: str, invoke: Any) -> Handler:
    return Handler(handlers.table(Probe(), probe.SERVICE)[f"/{probe.SERVICE}/{name}"].method, invoke)


async def fine(request: Any, call: Call) -> Any:
    return pb.EchoResponse()


async def failing(request: Any, call: Call) -> Any:
    raise KeyError("x")


async def test_an_ok_call_enters_in_order_and_leaves_in_reverse() -> None:
    told: list[str] = []
    guarded = Guarded(handler("Echo", fine), [Recording("a", told), Recording("b", told)])

    await guarded.unary(b"", Call.background())

    assert told == ["+a", "+b", "<a", "<b", ">a", ">b", "-b", "-a"]


async def test_the_interceptor_that_refuses_is_not_left() -> None:
    told: list[str] = []
    chain = [Recording("a", told), Raising(), Recording("b", told, refuses=True), Recording("c", told)]

    with pytest.raises(errors.Unavailable):
        await Guarded(handler("Echo", fine), chain).unary(b"", Call.background())

    assert told == ["+a", "-a:Unavailable"]


async def test_an_interceptor_may_replace_the_error_for_those_further_out() -> None:
    told: list[str] = []
    chain = [Recording("out", told), Raising(), Recording("in", told)]

    with pytest.raises(errors.Unavailable) as caught:
        await Guarded(handler("Echo", failing), chain).unary(b"", Call.background())

    assert isinstance(caught.value.__cause__, KeyError)
    assert told[-2:] == ["-in:KeyError", "-out:Unavailable"]


async def test_an_abandoned_stream_is_left_once() -> None:
    told: list[str] = []

    async def endless(request: Any, call: Call) -> Any:
        while True:
            yield b""

    replies = Guarded(handler("Count", endless), [Recording("a", told)]).stream(b"", Call.background())
    await anext(replies)
    await replies.aclose()

    assert told == ["+a", "<a", "-a:GeneratorExit"]


async def test_a_cancel_from_outside_stays_a_cancel() -> None:
    async def waiting(request: Any, call: Call) -> Any:
        await asyncio.Event().wait()

    guarded = Guarded(handler("Echo", waiting), [interceptors.Errors()])
    task = asyncio.create_task(guarded.unary(b"", Call.background()))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_reply_of_another_type_is_internal() -> None:
    async def wrong(request: Any, call: Call) -> Any:
        return pb.EchoRequest()

    with pytest.raises(errors.Internal) as caught:
        await Guarded(handler("Echo", wrong), [interceptors.Errors()]).unary(b"", Call.background(request_id="r1"))
    assert caught.value.metadata == {"correlation_id": "r1"}
    assert "EchoRequest" in str(caught.value.__cause__)


def test_the_order_of_the_standard_chain() -> None:
    clock = ManualClock()
    chain = interceptors.standard(Metrics("x").server, silent(), 0, clock, Admission(1), NobodyAuthenticator())

    assert [type(each).__name__ for each in chain] == [
        "Counting",
        "AccessLog",
        "Errors",
        "Deadline",
        "Admitting",
        "Viewer",
        "Validating",
    ]


def test_lines_are_limited_by_the_second() -> None:
    clock = ManualClock()
    limit = LineLimit(clock, per_second=2)

    assert [limit.admit() for _ in range(5)] == [0, 0, None, None, None]
    clock.advance(1)
    assert [limit.admit(), limit.admit()] == [3, 0]
