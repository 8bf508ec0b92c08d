"""Path templates: what the grammar takes and refuses, what they match, and which of several wins."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import percent, template
from gateway.matcher import DuplicateRoute, Matcher, MethodNotAllowed, NoRoute, UndecodablePath
from gateway.template import TemplateError, Wildcard

ONE, REST = Wildcard.ONE, Wildcard.REST

# text → segments, verb, variables as "path start end"
ACCEPTED: list[tuple[str, list[object], str, list[str]]] = [
    ("/", [], "", []),
    ("/a", ["a"], "", []),
    ("/v1/users", ["v1", "users"], "", []),
    ("/shops/{shop}/books/{book}", ["shops", ONE, "books", ONE], "", ["shop 1 2", "book 3 4"]),
    ("/shops/**", ["shops", REST], "", []),
    ("/**", [REST], "", []),
    ("/*", [ONE], "", []),
    ("/*/**", [ONE, REST], "", []),
    ("/*/a/**", [ONE, "a", REST], "", []),
    ("/a:go", ["a"], "go", []),
    ("/a/b/c:go", ["a", "b", "c"], "go", []),
    ("/*:go", [ONE], "go", []),
    ("/**:go", [REST], "go", []),
    ("/a/b/**:go", ["a", "b", REST], "go", []),
    ("/{x}:go", [ONE], "go", ["x 0 1"]),
    ("/a/{x}:one:two", ["a", ONE], "one:two", ["x 1 2"]),
    ("/a/{x.y.z}", ["a", ONE], "", ["x.y.z 1 2"]),
    ("/a/{x.y.z=*}", ["a", ONE], "", ["x.y.z 1 2"]),
    ("/a/{x=**}", ["a", REST], "", ["x 1 None"]),
    ("/{x=**}:go", [REST], "go", ["x 0 None"]),
    ("/a/{x=b/*}", ["a", "b", ONE], "", ["x 1 3"]),
    ("/a/{x=b/*/c}", ["a", "b", ONE, "c"], "", ["x 1 4"]),
    ("/a/{x=b/**}", ["a", "b", REST], "", ["x 1 None"]),
    ("/a/{x=b}", ["a", "b"], "", ["x 1 2"]),
    ("/{x=*/*}:go", [ONE, ONE], "go", ["x 0 2"]),
    ("/{x=*/a/b}/c", [ONE, "a", "b", "c"], "", ["x 0 3"]),
    ("/v1/{name=shops/*/books/*}", ["v1", "shops", ONE, "books", ONE], "", ["name 1 5"]),
    ("/v1/{parent=shops/*}/books", ["v1", "shops", ONE, "books"], "", ["parent 1 3"]),
    ("/v1/{book.name=shops/*/books/*}", ["v1", "shops", ONE, "books", ONE], "", ["book.name 1 5"]),
    ("/v3/{name=jobs/*}:cancel", ["v3", "jobs", ONE], "cancel", ["name 1 3"]),
    ("/a/*/{b.id}/{c=**}:go", ["a", ONE, ONE, REST], "go", ["b.id 2 3", "c 3 None"]),
    ("/{_}", [ONE], "", ["_ 0 1"]),
    ("/{_a1}", [ONE], "", ["_a1 0 1"]),
    ("/v1/.well-known/jwks.json", ["v1", ".well-known", "jwks.json"], "", []),
    ("/a-b._~c", ["a-b._~c"], "", []),
    ("/a=b&c=d;e", ["a=b&c=d;e"], "", []),
    ("/!$'()+,@", ["!$'()+,@"], "", []),
    ("/my%20blog", ["my blog"], "", []),
    ("/a%2Fb", ["a/b"], "", []),
    ("/%2A", ["*"], "", []),
    ("/a:%2c", ["a"], ",", []),
    ("/%e7%ac%ac%e4%b8%80", ["第一"], "", []),
    ("/a/{x=%2A%2a/**}", ["a", "**", REST], "", ["x 1 None"]),
]

REFUSED = [
    "", "a", "//", "/a/", "/a//b", "/{}", ":go", "/:go", "/a/:go", ":", "/:", "/*:", "/**:", "/{x}:", "/a/b/:", "/a/b/*:",
    "/a/b/**:", "/a/b/{x}:", "/a/{", "/a/{x", "/a/{x.", "/a/{x=b:go}", "{x}", "{x=/a}", "a/b", "a/{x}/b:go", "/a/{x=/b}",
    "/{x=a/{y=b}}", "/{x={y}}", "/a{x}", "/{x}a", "/a{x}b", "/{x}a{y}", "/a/b{x}/s", "/a/{x}b/s", "/{1}", "/{x.1}", "/{-}",
    "/{x-}", "/{x.}", "/{.x}", "/{x..y}", "/a?b=c", "/a b", "/a#b", "/a:b/c", "/a/{x/y}/b", "/a%1", "/a%", "/a%zz", "/a*", "/*a",
    "/a/***", "/**/a", "/a/**/b", "/a/**/*", "/a/**/**", "/{x=**}/a", "/{x=a/**}/{y=*}", "/{x=**/a}", "/{a}/{a}",
    "/{a.b}/b/{a.b=*}",
    "/a}", "/a:b:", "/{x=}", "/{x=a/}", "/{x = a}", "/ü", "/%ff", "/a\n", "/{x}\n", "/a:*", "/a:{x}", "/|", "/\\",
]  # fmt: skip


@pytest.mark.parametrize(("text", "segments", "verb", "variables"), ACCEPTED, ids=[row[0] for row in ACCEPTED])
def test_a_template_is_parsed(text: str, segments: list[object], verb: str, variables: list[str]) -> None:
    parsed = template.parse(text)
    assert list(parsed.segments) == segments
    assert parsed.verb == verb
    assert [f"{'.'.join(each.path)} {each.start} {each.end}" for each in parsed.variables] == variables


@pytest.mark.parametrize("text", REFUSED)
def test_what_breaks_the_grammar_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(TemplateError, match="column"):
        template.parse(text)


@given(st.text(alphabet="/a{}=*:.%2 ", max_size=20))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parsed = template.parse(text)
    except TemplateError:
        return
    assert text.startswith("/")
    assert REST not in parsed.segments[:-1]


def matcher(*routes: str) -> Matcher[str]:
    """Routes written "METHOD template"; GET if only the template is given."""
    made: Matcher[str] = Matcher()
    for route in routes:
        method, _, text = route.rpartition(" ")
        made.add(method or "GET", template.parse(text), route)
    return made


SHOP = (
    "/", "/v1/users", "/v1/users/{id}", "/v1/users/me", "/v1/users:batchGet", "/v1/users/{id}:block", "/v1/users/{id}/follow",
    "/v1/users/by/username/{username}", "/v1/{name=shops/*/books/*}", "/v1/{parent=shops/*}/books", "/v1/{name=shops/*}:close",
    "/files/{path=**}", "/files/{path=**}:stat", "/files/list", "/things/*/{kind}/{rest=**}", "/lit%2Feral/%2A", "/tail/**:go",
    "/x/{a}/b/{c}", "/x/{a}/b/c", "/x/a/{b}/c", "/verbs/{id}:one:two", "/deep/{outer=in/*/out}", "/only/**", "/exact/{word=yes}",
    "/v1/tweets/{id}", "/v1/tweets:top",
)  # fmt: skip

# path → template that serves it, captured values; None where nothing does
MATCHES: list[tuple[str, str | None, tuple[str, ...]]] = [
    ("/", "/", ()),
    ("", None, ()),
    ("v1/users", None, ()),
    ("/v1", None, ()),
    ("/v1/users", "/v1/users", ()),
    ("/v1/users/", None, ()),
    ("/v1//users", None, ()),
    ("//v1/users", None, ()),
    ("/v1/Users", None, ()),
    ("/v1/users/7", "/v1/users/{id}", ("7",)),
    ("/v1/users/7/", None, ()),
    ("/v1/users/7/8", None, ()),
    ("/v1/users/me", "/v1/users/me", ()),
    ("/v1/users/%6De", "/v1/users/me", ()),
    ("/v1/users/me2", "/v1/users/{id}", ("me2",)),
    ("/v1/users:batchGet", "/v1/users:batchGet", ()),
    ("/v1/users:batch%47et", "/v1/users:batchGet", ()),
    ("/v1/users:batchget", None, ()),
    ("/v1/users:", None, ()),
    ("/v1/users%3AbatchGet", None, ()),
    ("/v1/users/7:block", "/v1/users/{id}:block", ("7",)),
    ("/v1/users/7:other", "/v1/users/{id}", ("7:other",)),
    ("/v1/users/7:", "/v1/users/{id}", ("7:",)),
    ("/v1/users/:block", "/v1/users/{id}", (":block",)),
    ("/v1/users/7%3Ablock", "/v1/users/{id}", ("7:block",)),
    ("/v1/users/a:b:block", "/v1/users/{id}:block", ("a:b",)),
    ("/v1/users/me:block", "/v1/users/{id}:block", ("me",)),
    ("/v1/users/7/follow", "/v1/users/{id}/follow", ("7",)),
    ("/v1/users/7:block/follow", "/v1/users/{id}/follow", ("7:block",)),
    ("/v1/users/me/follow", "/v1/users/{id}/follow", ("me",)),
    ("/v1/users//follow", None, ()),
    ("/v1/users/by/username/ann", "/v1/users/by/username/{username}", ("ann",)),
    ("/v1/users/by/username/a%20n+n", "/v1/users/by/username/{username}", ("a n+n",)),
    ("/v1/users/by/username/a%2Fb", "/v1/users/by/username/{username}", ("a/b",)),
    ("/v1/users/by/username/a%2fb", "/v1/users/by/username/{username}", ("a/b",)),
    ("/v1/users/by/username/%E2%82%AC", "/v1/users/by/username/{username}", ("€",)),
    ("/v1/users/by/username/a%252Fb", "/v1/users/by/username/{username}", ("a%2Fb",)),
    ("/v1/users/by/username/%00", "/v1/users/by/username/{username}", ("\0",)),
    ("/v1/users/by/username", None, ()),
    ("/v1/shops/1/books/2", "/v1/{name=shops/*/books/*}", ("shops/1/books/2",)),
    ("/v1/shops/a%2Fb/books/c%20d", "/v1/{name=shops/*/books/*}", ("shops/a%2Fb/books/c d",)),
    ("/v1/shops/1/books", "/v1/{parent=shops/*}/books", ("shops/1",)),
    ("/v1/shops/1/boo%6Bs", "/v1/{parent=shops/*}/books", ("shops/1",)),
    ("/v1/shops/1:close", "/v1/{name=shops/*}:close", ("shops/1",)),
    ("/v1/shops/1:open", None, ()),
    ("/v1/shops/1/books/", None, ()),
    ("/v1/shops%2F1/books", None, ()),
    ("/files", "/files/{path=**}", ("",)),
    ("/files/", "/files/{path=**}", ("",)),
    ("/files/a", "/files/{path=**}", ("a",)),
    ("/files/a/b/c", "/files/{path=**}", ("a/b/c",)),
    ("/files/a//c/", "/files/{path=**}", ("a//c/",)),
    ("/files/a%2Fb/c%2fd%20e", "/files/{path=**}", ("a%2Fb/c%2fd e",)),
    ("/files/%2A", "/files/{path=**}", ("*",)),
    ("/files/list", "/files/list", ()),
    ("/files/list/x", "/files/{path=**}", ("list/x",)),
    ("/files/a/b:stat", "/files/{path=**}:stat", ("a/b",)),
    ("/files/list:stat", "/files/{path=**}:stat", ("list",)),
    ("/files:stat", "/files/{path=**}:stat", ("",)),
    ("/files/:stat", "/files/{path=**}:stat", ("",)),
    ("/files/a:stat/b", "/files/{path=**}", ("a:stat/b",)),
    ("/files/a:b", "/files/{path=**}", ("a:b",)),
    ("/things/1/2", "/things/*/{kind}/{rest=**}", ("2", "")),
    ("/things/1/2/3", "/things/*/{kind}/{rest=**}", ("2", "3")),
    ("/things/1/2/3/4:x", "/things/*/{kind}/{rest=**}", ("2", "3/4:x")),
    ("/things/1/%2f/%2A/%2f", "/things/*/{kind}/{rest=**}", ("/", "*/%2f")),
    ("/things/1", None, ()),
    ("/things//2", None, ()),
    ("/lit%2Feral/*", "/lit%2Feral/%2A", ()),
    ("/lit%2feral/%2a", "/lit%2Feral/%2A", ()),
    ("/lit/eral/*", None, ()),
    ("/tail:go", "/tail/**:go", ()),
    ("/tail/:go", "/tail/**:go", ()),
    ("/tail/a/b:go", "/tail/**:go", ()),
    ("/tail/a/b", None, ()),
    ("/x/1/b/c", "/x/{a}/b/c", ("1",)),
    ("/x/1/b/2", "/x/{a}/b/{c}", ("1", "2")),
    ("/x/a/b/c", "/x/a/{b}/c", ("b",)),
    ("/x/a/b/d", "/x/{a}/b/{c}", ("a", "d")),
    ("/x/a/z/c", "/x/a/{b}/c", ("z",)),
    ("/x/q/z/c", None, ()),
    ("/verbs/7:one:two", "/verbs/{id}:one:two", ("7",)),
    ("/verbs/7:two", None, ()),
    ("/deep/in/a%2Fb/out", "/deep/{outer=in/*/out}", ("in/a%2Fb/out",)),
    ("/deep/in//out", None, ()),
    ("/only", "/only/**", ()),
    ("/only/a/b", "/only/**", ()),
    ("/only/%zz", "/only/**", ()),
    ("/exact/yes", "/exact/{word=yes}", ("yes",)),
    ("/exact/no", None, ()),
    ("/v1/tweets:top", "/v1/tweets:top", ()),
    ("/v1/tweets/top", "/v1/tweets/{id}", ("top",)),
    ("/v1/us%65rs", "/v1/users", ()),
    ("/v1/%zz", None, ()),
    ("*", None, ()),
]


@pytest.fixture(scope="module")
def shop() -> Matcher[str]:
    return matcher(*SHOP)


@pytest.mark.parametrize(("path", "expected", "captured"), MATCHES, ids=[row[0] for row in MATCHES])
def test_a_path_is_served_by_the_best_template(
    shop: Matcher[str], path: str, expected: str | None, captured: tuple[str, ...]
) -> None:
    if expected is None:
        with pytest.raises(NoRoute):
            shop.find("GET", path)
    else:
        found = shop.find("GET", path)
        assert (found.value, found.captured) == (expected, captured)


@pytest.mark.parametrize(
    "path", ["/v1/users/%", "/v1/users/%4", "/v1/users/%zz", "/v1/users/%ff", "/files/a/%C3", "/v1/users/\xff"]
)
def test_a_captured_value_that_cannot_be_decoded_is_told_apart_from_an_unknown_path(shop: Matcher[str], path: str) -> None:
    with pytest.raises(UndecodablePath):
        shop.find("GET", path)


METHODS = matcher(
    "GET /a", "POST /a", "DELETE /a/{id}", "GET /a/me", "PATCH /a/me", "* /any/{id}", "GET /any/{id}", "LOCK /a/{id}", "GET /v:go"
)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/a", "GET /a"), ("POST", "/a", "POST /a"), ("HEAD", "/a", "GET /a"), ("DELETE", "/a/7", "DELETE /a/{id}"),
        ("DELETE", "/a/me", "DELETE /a/{id}"), ("GET", "/a/me", "GET /a/me"), ("LOCK", "/a/me", "LOCK /a/{id}"),
        ("GET", "/any/1", "GET /any/{id}"), ("HEAD", "/any/1", "GET /any/{id}"), ("PUT", "/any/1", "* /any/{id}"),
        ("BREW", "/any/1", "* /any/{id}"), ("HEAD", "/v:go", "GET /v:go"),
    ],
)  # fmt: skip
def test_the_method_takes_part_in_the_choice(method: str, path: str, expected: str) -> None:
    assert METHODS.find(method, path).value == expected


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/a", {"GET", "POST"}),
        ("HEAD", "/a/7", {"DELETE", "LOCK"}),
        ("POST", "/a/me", {"GET", "PATCH", "DELETE", "LOCK"}),
        ("get", "/a", {"GET", "POST"}),
        ("POST", "/v:go", {"GET"}),
    ],
)
def test_a_wrong_method_names_the_right_ones(method: str, path: str, allowed: set[str]) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        METHODS.find(method, path)
    assert caught.value.allowed == allowed
    assert METHODS.methods(path) == allowed


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/a", "/a"),
        ("/{a}", "/{b}"),
        ("/{a}", "/*"),
        ("/a/{x=**}", "/a/**"),
        ("/{a=b/*}", "/b/{c}"),
        ("/a:v", "/a:%76"),
        ("/{a=b}", "/b"),
    ],
)
def test_two_templates_for_the_same_paths_are_refused(first: str, second: str) -> None:
    with pytest.raises(DuplicateRoute):
        matcher(first, second)
    matcher(f"GET {first}", f"POST {second}")


def test_a_very_long_path_costs_no_stack() -> None:
    deep = matcher("/a/**", "/b/*")
    assert deep.find("GET", "/a/" + "/" * 64_000).value == "/a/**"
    with pytest.raises(NoRoute):
        deep.find("GET", "/b/" + "x/" * 64_000)
    with pytest.raises(NoRoute):
        deep.find("GET", "/b" + ":" * 64_000)


@given(st.text(max_size=40))
def test_any_path_is_found_or_not(path: str) -> None:
    raw = path.encode("utf-8", "surrogatepass").decode("latin-1")
    with contextlib.suppress(NoRoute, UndecodablePath):
        matcher(*SHOP[:14]).find("GET", "/" + raw)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20))
def test_decoding_undoes_encoding(text: str) -> None:
    raw = text.encode()
    escaped = "".join(f"%{byte:02X}" for byte in raw)
    assert percent.decode(escaped) == text
    assert percent.decode(raw.replace(b"%", b"%25").decode("latin-1")) == text
    assert percent.decode_but_slash(escaped).replace("%2F", "/") == text
