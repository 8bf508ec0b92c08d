"""Handler tables: a service object serves exactly its contract."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chirp.options import v1 as optionspb
from services.runtime import handlers, methods
from services.runtime.handlers import HandlerMismatch
from services.runtime.methods import Kind, Method
from tests import probe

pb: Any = probe.load()[0]


class Probe:
    async def echo(self, request: Any, call: Any) -> Any: ...
    async def write(self, request: Any, call: Any) -> Any: ...
    async def scarce(self, request: Any, call: Any) -> Any: ...
    async def collect(self, requests: Any, call: Any) -> Any: ...
    async def check(self, request: Any, call: Any) -> Any: ...

    async def count(self, request: Any, call: Any) -> AsyncIterator[Any]:
        yield

    async def chat(self, requests: Any, call: Any) -> AsyncIterator[Any]:
        yield

    async def healthy(self) -> bool:
        return True

    async def _private(self) -> None: ...

    def plain(self) -> None: ...


def row(name: str) -> Method:
    return methods.of_service(probe.SERVICE)[f"/{probe.SERVICE}/{name}"]


def test_a_table_has_every_rpc_by_its_path() -> None:
    table = handlers.table(Probe(), probe.SERVICE)

    assert sorted(path.rpartition("/")[2] for path in table) == [
        "Chat",
        "Check",
        "Collect",
        "Count",
        "Echo",
        "Scarce",
        "Write",
    ]
    assert handlers.table(Probe(), pb.DESCRIPTOR.services_by_name["ProbeService"]).keys() == table.keys()


def test_rows_say_what_the_contract_says() -> None:
    write, scarce, echo = row("Write"), row("Scarce"), row("Echo")

    assert (write.caller, write.criticality) == (optionspb.CALLER_USER, optionspb.CRITICALITY_CRITICAL)
    assert (write.success_status, write.idempotent, write.max_in_flight) == (201, False, 1000)
    assert (scarce.max_in_flight, scarce.criticality) == (2, optionspb.CRITICALITY_SHEDDABLE)
    assert (echo.idempotent, echo.success_status, echo.criticality) == (True, 200, optionspb.CRITICALITY_NORMAL)
    assert (echo.request_class, echo.response_class) == (pb.EchoRequest, pb.EchoResponse)
    kinds = [row(name).kind for name in ("Echo", "Collect", "Count", "Chat")]
    assert kinds == [Kind.UNARY, Kind.CLIENT_STREAM, Kind.SERVER_STREAM, Kind.BIDI]


def test_a_missing_method_fails_at_start() -> None:
    class Lacking(Probe):
        echo: Any = None

    with pytest.raises(HandlerMismatch, match=r"Lacking\.echo is missing"):
        handlers.table(Lacking(), probe.SERVICE)


def test_a_surplus_method_fails_at_start() -> None:
    class Surplus(Probe):
        async def ecko(self, request: Any, call: Any) -> Any: ...

    with pytest.raises(HandlerMismatch, match="ecko"):
        handlers.table(Surplus(), probe.SERVICE)


def test_a_method_of_the_wrong_kind_fails_at_start() -> None:
    class Wrong(Probe):
        async def count(self, request: Any, call: Any) -> Any: ...

    class Narrow(Probe):
        async def echo(self, request: Any) -> Any: ...

    with pytest.raises(HandlerMismatch, match="async generator"):
        handlers.table(Wrong(), probe.SERVICE)
    with pytest.raises(HandlerMismatch, match=r"\(request, call\)"):
        handlers.table(Narrow(), probe.SERVICE)


@pytest.mark.parametrize(
    ("name", "snake"),
    [("GetTweet", "get_tweet"), ("BatchGetUsers", "batch_get_users"), ("GetURLFor", "get_url_for"), ("Follow", "follow")],
)
def test_snake_case(name: str, snake: str) -> None:
    assert handlers.snake_case(name) == snake
