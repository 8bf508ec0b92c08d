"""Any request, however wrong, is answered, and never with a fault of the gateway."""

from __future__ import annotations

import asyncio
import json
import urllib.parse

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.client import Client
from tests.gateway.zookeeper import Zoo

METHODS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "LOCK"])
SEGMENTS = st.sampled_from(
    [
        "v1",
        "echo",
        "me",
        "7",
        "files",
        "named",
        "any",
        "watch",
        "text",
        "x:peek",
        "%2F",
        "%zz",
        "%ff",
        "",
        ":",
        "*",
        "{id}",
        "leaves",
    ]
)
PATHS = st.lists(SEGMENTS, max_size=5).map(lambda parts: "/" + "/".join(parts))
QUERIES = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "name",
                "ids",
                "animal.child.a_bool",
                "animal.labels[x]",
                "animal.value",
                "updateMask",
                "nope",
                "animal",
                "animal.bornTime",
            ]
        ),
        st.text(max_size=6).map(lambda text: urllib.parse.quote(text.encode("utf-8", "surrogatepass")))
        | st.sampled_from(["1", "%", "%ff"]),
    ),
    max_size=3,
).map(lambda pairs: "&".join(f"{name}={text}" for name, text in pairs))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "animal", "aString", "labels",
    "value", "any", "@type", "leaves", "x"]), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
BODIES = st.none() | VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)
HEADERS = st.dictionaries(
    st.sampled_from(["content_type", "x_user_id", "x_request_id", "grpc_timeout", "idempotency_key", "grpc_metadata_a",
    "grpc_metadata_b_bin", "origin", "content_encoding"]),
    st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=8)
    | st.sampled_from(["application/json", "5S", "1m", "42"]),
    max_size=3,
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(METHODS, PATHS, QUERIES, BODIES, HEADERS)
def fuzz(
    port: int, loop: asyncio.AbstractEventLoop, method: str, path: str, query: str, body: bytes | None, headers: dict[str, str]
) -> None:
    sent = Client(port).request(method, f"{path}?{query}" if query else path, body, **headers)
    answer = asyncio.run_coroutine_threadsafe(sent, loop).result(20)
    # 503 and 504 are answers to a Grpc-Timeout of a millisecond, the only 5xx a request can ask for.
    assert answer.status < 500 or (answer.status == 504 and "grpc_timeout" in headers), (answer.status, answer.body)


async def test_no_request_however_wrong_is_the_gateways_fault(zoo: Zoo) -> None:
    await asyncio.to_thread(fuzz, zoo.port, asyncio.get_running_loop())
    assert (await zoo.get("/healthz")).status == 200
