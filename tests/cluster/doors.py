"""Both ways into the cluster, gRPC and the REST shim, behind one call: the same request, the same answer, the same error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tests.cluster.clients import CALL_SECONDS
from tests.conftest import Cluster
from tests.gateway.client import Answer, Client

HTTP = {0: 200, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 12: 501, 14: 503, 16: 401}
"""HTTP status by gRPC code."""
DETAIL = "type.googleapis.com/google.rpc."


@dataclass(frozen=True, slots=True)
class Operation:
    """An RPC and its route. What the path does not take goes into the body, or into the query where there is none."""

    service: str
    method: str
    route: str
    body_field: str = ""
    """The request field that the body is; all of them when empty."""
    reply_field: str = ""
    """The reply field that the answer is; all of them when empty."""
    success: int = 200


OPERATIONS = {
    "CreateUser": Operation("user", "POST", "/v1/users", reply_field="user", success=201),
    "GetUser": Operation("user", "GET", "/v1/users/{user_id}", reply_field="user"),
    "BatchGetUsers": Operation("user", "GET", "/v1/users:batchGet"),
    "LookupUser": Operation("user", "GET", "/v1/users/by/username/{username}", reply_field="user"),
    "UpdateProfile": Operation("user", "PATCH", "/v1/users/me", body_field="profile", reply_field="user"),
    "Follow": Operation("graph", "POST", "/v1/users/{user_id}/follow", success=201),
    "Unfollow": Operation("graph", "DELETE", "/v1/users/{user_id}/follow"),
    "ListFollowers": Operation("graph", "GET", "/v1/users/{user_id}/followers"),
    "ListFollowing": Operation("graph", "GET", "/v1/users/{user_id}/following"),
    "GetRelationship": Operation("graph", "GET", "/v1/users/{user_id}/relationship", reply_field="relationship"),
    "CreateTweet": Operation("tweet", "POST", "/v1/tweets", reply_field="tweet", success=201),
    "ValidateText": Operation("tweet", "POST", "/v1/tweets:validate"),
    "GetTweet": Operation("tweet", "GET", "/v1/tweets/{tweet_id}", reply_field="tweet"),
    "BatchGetTweets": Operation("tweet", "GET", "/v1/tweets:batchGet"),
    "DeleteTweet": Operation("tweet", "DELETE", "/v1/tweets/{tweet_id}"),
    "GetHomeTimeline": Operation("timeline", "GET", "/v1/timeline/home"),
    "GetUserTimeline": Operation("timeline", "GET", "/v1/users/{user_id}/tweets"),
    "ExplainTimelineEntry": Operation("timeline", "GET", "/v1/timeline/home/{tweet_id}:explain"),
    "GetFanoutStatus": Operation("timeline", "GET", "/v1/tweets/{tweet_id}:fanout"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back: gRPC code, the reply in proto JSON, and the parts of an error."""

    code: int
    body: dict[str, Any] = field(default_factory=dict[str, Any])
    message: str = ""
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    fields: tuple[str, ...] = ()
    """Paths that BadRequest names."""

    @property
    def refusal(self) -> tuple[int, str]:
        """Code and reason."""
        return self.code, self.reason

    @property
    def shown(self) -> list[int]:
        """The tweets of a timeline page."""
        return [int(item["tweet"]["tweetId"]) for item in self.body["items"]]


class Door:
    """A way in."""

    async def call(self, operation: str, viewer: int | str = 0, **request: Any) -> Outcome:
        """One call; fields of the request in proto spelling. `viewer`: who asks, nobody for 0."""
        raise NotImplementedError


class Grpc(Door):
    """Unary calls, as any gRPC client makes them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def call(self, operation: str, viewer: int | str = 0, **request: Any) -> Outcome:
        chosen = OPERATIONS[operation]
        path = f"chirp.{chosen.service}.v1.{chosen.service.title()}Service"
        method = descriptor_pool.Default().FindServiceByName(path).methods_by_name[operation]
        sent = ParseDict(request, message_factory.GetMessageClass(method.input_type)())
        reply_class = message_factory.GetMessageClass(method.output_type)
        call = self._cluster.channel(chosen.service).unary_unary(
            f"/{path}/{operation}", type(sent).SerializeToString, reply_class.FromString
        )
        try:
            reply = await call(sent, timeout=CALL_SECONDS, metadata=(("x-user-id", str(viewer)),) if viewer else ())
        except grpc.aio.AioRpcError as error:
            return _of_status(error)
        return Outcome(0, _as_json(reply, chosen.reply_field))


class Rest(Door):
    """HTTP and JSON."""

    def __init__(self, cluster: Cluster) -> None:
        self.client = Client(cluster.machine.instance("gateway").http_port)

    async def call(self, operation: str, viewer: int | str = 0, **request: Any) -> Outcome:
        chosen = OPERATIONS[operation]
        path = chosen.route
        for name in [name for name in request if f"{{{name}}}" in path]:
            path = path.replace(f"{{{name}}}", quote(str(request.pop(name)), safe=""))
        body = None
        if chosen.method in ("POST", "PATCH"):
            body = request.pop(chosen.body_field, {}) if chosen.body_field else request
        if request and (body is None or chosen.body_field):
            path += "?" + urlencode(request, doseq=True)
        answer = await self.client.request(chosen.method, path, body, x_user_id=str(viewer or ""))
        return _of_answer(answer, chosen.success)


def _as_json(reply: Message, name: str) -> dict[str, Any]:
    return MessageToDict(getattr(reply, name) if name else reply, always_print_fields_with_no_presence=True)


def _of_status(error: grpc.aio.AioRpcError) -> Outcome:
    """Every error of ours carries its status, whose first detail is the reason."""
    raw = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(raw)  # type: ignore[arg-type]
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.code == error.code().value[0]
    assert status.details[0].Unpack(info)
    assert info.domain == "chirp"
    for detail in status.details:
        detail.Unpack(bad)
    named = tuple(violation.field for violation in bad.field_violations)
    return Outcome(status.code, {}, status.message, info.reason, dict(info.metadata), named)


def _of_answer(answer: Answer, success: int) -> Outcome:
    """The same from HTTP, whose status must agree with the code of the body."""
    assert answer.headers["content-type"].startswith("application/json"), answer
    if answer.status < 300:
        assert answer.status == success
        return Outcome(0, answer.json)
    return of_error(answer)


def of_error(answer: Answer) -> Outcome:
    """A refusal of the REST shim: one shape for all."""
    error = answer.json
    assert error.keys() == {"code", "message", "details"}, error
    info = error["details"][0]
    assert (info["@type"], info["domain"]) == (DETAIL + "ErrorInfo", "chirp"), error
    bad = [detail for detail in error["details"] if detail["@type"] == DETAIL + "BadRequest"]
    named = tuple(violation["field"] for detail in bad for violation in detail["fieldViolations"])
    if error["code"] in HTTP and answer.status not in (405, 413, 415):
        assert HTTP[error["code"]] == answer.status, answer
    return Outcome(error["code"], {}, error["message"], info["reason"], info.get("metadata", {}), named)
