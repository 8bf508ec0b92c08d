"""Every call to a peer has a deadline, none is made item by item; SQL names its columns."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor

from chirp.graph import v1 as graphpb
from chirp.id import v1 as idpb
from chirp.ops import v1 as opspb
from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from chirp.user import v1 as userpb
from tests.rules.sources import ROOT, modules

FILES: tuple[FileDescriptor, ...] = (
    graphpb.GetViewerFactsRequest.DESCRIPTOR.file, idpb.GenerateIdsRequest.DESCRIPTOR.file, opspb.Setting.DESCRIPTOR.file,
    timelinepb.TimelineItem.DESCRIPTOR.file, tweetpb.GetTweetRequest.DESCRIPTOR.file, userpb.GetUserRequest.DESCRIPTOR.file,
)  # fmt: skip
RPCS = {method.name for file in FILES for service in file.services_by_name.values() for method in service.methods}


def stub_calls(module: ast.Module) -> Iterator[ast.Call]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in RPCS:
            yield node


def has_deadline(call: ast.Call) -> bool:
    return any(
        keyword.arg == "timeout"
        or (keyword.arg is None and "onward" in ast.unparse(keyword.value))
        for keyword in call.keywords
    )  # fmt: skip


def test_there_are_calls_to_check() -> None:
    assert sum(1 for _, module in modules("services") for _ in stub_calls(module)) >= 8


def test_every_call_to_a_peer_has_a_deadline() -> None:
    found = [
        f"{path}:{call.lineno}"
        for path, module in modules("services", "gateway", "loadtest")
        for call in stub_calls(module)
        if not has_deadline(call)
    ]
    assert found == []


BY_THE_BATCH = {Path("services/timeline/truth.py")}
"""Loops over batches of ids, not over ids."""


def test_no_peer_is_called_item_by_item() -> None:
    found: list[str] = []
    for path, module in modules("services"):
        for loop in ast.walk(module):
            if isinstance(loop, ast.For | ast.AsyncFor) and path not in BY_THE_BATCH and path.parts[1] != "cluster":
                found += [f"{path}:{call.lineno}" for node in loop.body for call in stub_calls(ast.Module([node], []))]
    assert found == []


def test_sql_names_its_columns() -> None:
    star = re.compile(r'select\s+\*\s+from\s+"?\w+"?\.\w+', re.IGNORECASE)
    found = [
        f"{path}:{node.lineno}"
        for path, module in modules("services", "loadtest")
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and star.search(node.value)
    ]
    found += [str(path) for path in (ROOT / "services").glob("*/migrations/*.sql") if star.search(path.read_text())]
    assert found == []
