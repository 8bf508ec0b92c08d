"""The route table: what annotations say, and the annotations with which the gateway does not start."""

from __future__ import annotations

import pytest

from chirp.graph import v1 as graphpb
from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from chirp.user import v1 as userpb
from gateway import __main__ as process
from gateway import routes
from gateway.routes import Route, RouteError
from services.runtime import methods
from tests.gateway import contracts

CONTRACTS = (graphpb, timelinepb, tweetpb, userpb)
ZOO = contracts.zoo()


def rows(rule: str, rpc: str = "rpc Call(Ask) returns (Reply)", more: str = "") -> list[Route]:
    return list(routes.of_service(contracts.one_rpc(rule, rpc, more)))


def test_a_rule_and_its_additional_bindings_are_routes_of_one_rpc() -> None:
    found = rows('post: "/a/{id}" body: "inner" response_body: "text" additional_bindings: {get: "/b/{inner.name=x/**}:go"}')
    first, second = found
    assert [each.rpc for each in found] == ["/trial.v1.Trial/Call"] * 2
    assert (first.http_method, first.body and first.body.name, first.response_body and first.response_body.name) == (
        "POST",
        "inner",
        "text",
    )
    assert (second.http_method, second.body, second.whole_body, second.response_body) == ("GET", None, False, None)
    assert [[field.name for field in path] for path in second.variables] == [["inner", "name"]]


@pytest.mark.parametrize(
    ("rule", "method"),
    [
        ('get: "/a"', "GET"), ('put: "/a"', "PUT"), ('post: "/a"', "POST"), ('delete: "/a"', "DELETE"), ('patch: "/a"', "PATCH"),
        ('custom: {kind: "LOCK" path: "/a"}', "LOCK"), ('custom: {kind: "*" path: "/a"}', "*"),
        ('custom: {kind: "HEAD" path: "/a"}', "HEAD"),
    ],
)  # fmt: skip
def test_every_pattern_has_its_method(rule: str, method: str) -> None:
    assert rows(rule)[0].http_method == method


def test_an_rpc_without_a_rule_has_no_route() -> None:
    assert rows("") == []


def test_the_status_of_success_is_the_policys() -> None:
    assert rows('post: "/a"')[0].success == 200
    assert rows('post: "/a"', more="option (chirp.options.v1.policy) = {success_status: 201};")[0].success == 201


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ('get: "/a/{nope}"', "no field 'nope'"),
        ('get: "/a/{inner.nope}"', "no field 'nope'"),
        ('get: "/a/{name.x}"', "not a single message"),
        ('get: "/a/{inners.name}"', "not a single message"),
        ('get: "/a/{tags}"', "repeated"),
        ('get: "/a/{inners}"', "repeated"),
        ('get: "/a/{labels}"', "map"),
        ('get: "/a/{inner}"', "message"),
        ('get: "/a/{userId}"', "no field"),
        ('get: "a"', "column 1"),
        ('get: "/a/**/b"', "last segment"),
        ('get: "/a/{id}/{id}"', "bound twice"),
        ('post: "/a" body: "nope"', "body 'nope'"),
        ('post: "/a" body: "inner.name"', "body 'inner.name'"),
        ('post: "/a/{inner}" body: "inner"', "message"),
        ('post: "/a/{name}" body: "name"', "both the body and a path variable"),
        ('get: "/a" body: "*"', "cannot have a body"),
        ('delete: "/a" body: "inner"', "cannot have a body"),
        ('get: "/a" response_body: "nope"', "response_body 'nope'"),
        ('get: "/a" response_body: "inner.name"', "response_body"),
        ('body: "*"', "no pattern"),
        ('custom: {kind: "lock" path: "/a"}', "not an HTTP method"),
        ('custom: {kind: "" path: "/a"}', "not an HTTP method"),
        ('get: "/a" additional_bindings: {get: "/b" additional_bindings: {get: "/c"}}', "cannot hold"),
        ('get: "/a" additional_bindings: {body: "*"}', "no pattern"),
    ],
)
def test_a_rule_that_cannot_be_served_stops_the_start(rule: str, fault: str) -> None:
    with pytest.raises(RouteError, match=r"trial\.v1\.Trial\.Call") as caught:
        rows(rule)
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("rpc", "more"),
    [
        ("rpc Call(stream Ask) returns (Reply)", ""),
        ("rpc Call(stream Ask) returns (stream Reply)", ""),
        ("rpc Call(Ask) returns (Reply)", "option (chirp.options.v1.policy) = {caller: CALLER_SERVICE};"),
        ("rpc Call(Ask) returns (Reply)", "option (chirp.options.v1.policy) = {caller: CALLER_OPERATOR};"),
        ("rpc Call(Ask) returns (Reply)", "option (chirp.options.v1.policy) = {success_status: 404};"),
    ],
)
def test_an_rpc_that_is_not_for_http_stops_the_start(rpc: str, more: str) -> None:
    with pytest.raises(RouteError):
        rows('post: "/a"', rpc, more)


@pytest.mark.parametrize("second", ['get: "/a/{name}"', 'get: "/a/*"', 'get: "/a/{inner.name=*}"'])
def test_two_rules_for_the_same_paths_stop_the_start(second: str) -> None:
    service = contracts.one_rpc(f'get: "/a/{{id}}" additional_bindings: {{{second}}}')
    with pytest.raises(RouteError, match="match the same paths"):
        routes.table([service], lambda route: route)
    with pytest.raises(RouteError, match="match the same paths"):
        routes.table([contracts.one_rpc('get: "/a/{id}"'), contracts.one_rpc(second)], lambda route: route)


def test_a_path_variable_may_be_a_message_that_is_written_as_text() -> None:
    assert rows('get: "/at/{time}"')


def test_every_rpc_with_a_rule_has_a_route_and_no_other() -> None:
    service = ZOO.service("Zoo")
    assert {route.rpc.rpartition("/")[2] for route in routes.of_service(service)} == {
        method.name for method in service.methods if method.name != "Hidden"
    }


def test_our_own_services_make_one_table() -> None:
    services = [methods.service_descriptor(name) for name in process.SERVICES]
    table = routes.table(services, lambda route: route)
    for path, rpc in OURS.items():
        method, _, path = path.partition(" ")
        assert table.find(method, path).value.rpc.endswith(rpc), path


OURS = {
    "POST /v1/users": "CreateUser",
    "GET /v1/users/me": "GetUser",
    "GET /v1/users/7": "GetUser",
    "PATCH /v1/users/me": "UpdateProfile",
    "GET /v1/users/by/username/ann": "LookupUser",
    "POST /v1/users/7/follow": "Follow",
    "DELETE /v1/users/7/follow": "Unfollow",
    "GET /v1/users/7/followers": "ListFollowers",
    "GET /v1/users/7/following": "ListFollowing",
    "GET /v1/users/7/relationship": "GetRelationship",
    "POST /v1/tweets": "CreateTweet",
    "POST /v1/tweets:validate": "ValidateText",
    "GET /v1/tweets:batchGet": "BatchGetTweets",
    "GET /v1/tweets/7": "GetTweet",
    "DELETE /v1/tweets/7": "DeleteTweet",
    "GET /v1/users/7/tweets": "GetUserTimeline",
    "GET /v1/timeline/home": "GetHomeTimeline",
    "GET /v1/timeline/home/7:explain": "ExplainTimelineEntry",
}
