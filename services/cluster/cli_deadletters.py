"""`chirp dlq`: messages that could not be handled, through the OpsService of the running processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table

from services.cluster import terminal
from services.cluster.program import ClusterError
from services.cluster.state import ProcessRecord
from services.cluster.terminal import JsonOption

if TYPE_CHECKING:
    from chirp.ops import v1 as opspb

T = TypeVar("T")

TIMEOUT = 5.0
# Dead letters are rows that every process sees; the workers make them, so they are asked first.
KINDS = ("worker", "service")

commands = typer.Typer(help="Messages that could not be handled: list, replay or discard them.", no_args_is_help=True)

Number = Annotated[int, typer.Argument(min=1, help="The number that `chirp dlq list` shows.")]


@commands.command("list")
def list_(
    include_resolved: Annotated[bool, typer.Option("--all", help="Also those that were replayed or discarded.")] = False,
    json: JsonOption = False,
) -> None:
    """List dead letters, newest first, with the reason of each."""

    async def fetch(ops: opspb.OpsServiceAsyncStub) -> list[opspb.DeadLetter]:
        return await _all_pages(ops, include_resolved)

    letters = _ask(fetch)
    if json:
        terminal.print_json([_facts(letter) for letter in letters])
        return
    table = Table("number", "consumer", "subject", "event", "deliveries", "reason", "error", box=None, pad_edge=False)
    for letter in letters:
        known = (letter.consumer, letter.subject, letter.event_id, str(letter.deliveries), letter.reason, letter.error)
        table.add_row(str(letter.dead_letter_id), *known)
    terminal.console().print(table if letters else "no dead letters")


@commands.command()
def replay(number: Number) -> None:
    """Publish a dead letter again, to all its consumers."""
    from chirp.ops import v1 as opspb

    _ask(lambda ops: ops.ReplayDeadLetter(opspb.ReplayDeadLetterRequest(dead_letter_id=number), timeout=TIMEOUT))
    print(f"dead letter {number} was published again")


@commands.command()
def discard(number: Number) -> None:
    """Mark a dead letter as settled without publishing it."""
    from chirp.ops import v1 as opspb

    _ask(lambda ops: ops.DiscardDeadLetter(opspb.DiscardDeadLetterRequest(dead_letter_id=number), timeout=TIMEOUT))
    print(f"dead letter {number} was discarded")


async def _all_pages(ops: opspb.OpsServiceAsyncStub, include_resolved: bool) -> list[opspb.DeadLetter]:
    from chirp.ops import v1 as opspb

    found: list[opspb.DeadLetter] = []
    token = ""
    while True:
        request = opspb.ListDeadLettersRequest(page_size=200, page_token=token, include_resolved=include_resolved)
        page = await ops.ListDeadLetters(request, timeout=TIMEOUT)
        found.extend(page.items)
        token = page.next_page_token
        if not token:
            return found


def _facts(letter: opspb.DeadLetter) -> object:
    from google.protobuf import json_format

    return json_format.MessageToDict(letter, always_print_fields_with_no_presence=True)


def _ask(call: Callable[[opspb.OpsServiceAsyncStub], Awaitable[T]]) -> T:
    with terminal.clear_failures():
        return asyncio.run(_ask_first_reachable(terminal.running_record().processes, call))


async def _ask_first_reachable(
    processes: tuple[ProcessRecord, ...], call: Callable[[opspb.OpsServiceAsyncStub], Awaitable[T]]
) -> T:
    import grpc

    from chirp.ops import v1 as opspb

    for address in (each.address for kind in KINDS for each in processes if each.kind == kind):
        async with grpc.aio.insecure_channel(address) as channel:
            try:
                return await call(opspb.OpsServiceStub(channel))
            except grpc.aio.AioRpcError as problem:
                if problem.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise ClusterError(str(problem.details())) from None
    raise ClusterError("no process answers: see `chirp status`")
