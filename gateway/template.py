"""Path templates of google.api.http: their grammar, what they match, and which of several wins.

    Template = "/" [ Segments ] [ Verb ]            Segments = Segment { "/" Segment }
    Segment  = "*" | "**" | LITERAL | Variable      Variable = "{" FieldPath [ "=" Segments ] "}"
    FieldPath = IDENT { "." IDENT }                 Verb     = ":" LITERAL { ":" LITERAL }

Where the implementations disagree, ours does this:
- `**` is the last segment (a verb may follow). A literal after it, which some accept, is refused at start.
- `*` takes one segment that is not empty; `**` takes any number of segments, none included, empty ones included. So a
  trailing slash is an empty segment, which only `**` takes.
- A variable of one segment is decoded fully, `%2F` included; one of several segments keeps `%2F` and `%2f` as they are.
  Literals are compared decoded. A broken escape or bad UTF-8 in a captured value is 400.
- Precedence: segment by segment from the left, literal before `*` before `**`. A verb is looked for first, so
  `/users/7:block` is the verb `block` of user 7 where that is declared; an undeclared "verb" is part of the segment.
  Where the best path lacks the request's method and another matching one has it, the other one serves it.
- A path that is served, but with no such method, is 405 with `Allow` (not 501). HEAD is served by GET's route.
- An unknown query name is refused with 400 (`query.py`), not ignored.
"""

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gateway import percent

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LITERAL = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()+,;=@]|%[0-9A-Fa-f]{2})+")


class TemplateError(ValueError):
    """A template that breaks the grammar; says where."""


class Wildcard(enum.Enum):
    """A segment that is not spelled out."""

    ONE = "*"
    REST = "**"


Segment = str | Wildcard


@dataclass(frozen=True, slots=True)
class Variable:
    """A field bound to a run of segments: `segments[start:end]`, to the end of the path if `end` is None."""

    path: tuple[str, ...]
    start: int
    end: int | None

    def capture(self, segments: list[str]) -> str:
        """The variable's text in a matching path; ValueError if it cannot be decoded."""
        if self.end == self.start + 1:
            return percent.decode(segments[self.start])
        return "/".join([percent.decode_but_slash(each) for each in segments[self.start : self.end]])


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template; literals and verb are decoded."""

    text: str
    segments: tuple[Segment, ...]
    verb: str
    variables: tuple[Variable, ...]

    @property
    def literal(self) -> bool:
        """Whether exactly one path matches."""
        return not any(isinstance(each, Wildcard) for each in self.segments)


def parse(text: str) -> Template:
    """The template that `text` spells; TemplateError if it breaks the grammar."""
    return _Parser(text).template()


class _Parser:
    """Recursive descent over the text, one method per rule of the grammar."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._segments: list[Segment] = []
        self._variables: list[Variable] = []

    def template(self) -> Template:
        self._expect("/")
        if self._peek():
            self._run(inside=False)
        verb = self._verb()
        if self._peek():
            raise self._error(f"unexpected {self._peek()!r}")
        if Wildcard.REST in self._segments[:-1]:
            raise self._error("'**' must be the last segment")
        return Template(self._text, tuple(self._segments), verb, tuple(self._variables))

    def _run(self, *, inside: bool) -> None:
        self._segment(inside=inside)
        while self._take("/"):
            self._segment(inside=inside)

    def _segment(self, *, inside: bool) -> None:
        if self._take("**"):
            self._segments.append(Wildcard.REST)
        elif self._take("*"):
            self._segments.append(Wildcard.ONE)
        elif self._peek() == "{":
            if inside:
                raise self._error("a variable cannot hold another variable")
            self._variable()
        else:
            self._segments.append(self._literal())

    def _variable(self) -> None:
        self._expect("{")
        path = [self._match(_IDENTIFIER, "a field name")]
        while self._take("."):
            path.append(self._match(_IDENTIFIER, "a field name"))
        start = len(self._segments)
        if self._take("="):
            self._run(inside=True)
        else:
            self._segments.append(Wildcard.ONE)
        self._expect("}")
        self._bind(tuple(path), start)

    def _bind(self, path: tuple[str, ...], start: int) -> None:
        if any(each.path == path for each in self._variables):
            raise self._error(f"variable {'.'.join(path)} is bound twice")
        end = None if self._segments[-1] is Wildcard.REST else len(self._segments)
        self._variables.append(Variable(path, start, end))

    def _verb(self) -> str:
        parts: list[str] = []
        while self._segments and self._take(":"):
            parts.append(self._literal())
        return ":".join(parts)

    def _literal(self) -> str:
        raw = self._match(_LITERAL, "a segment")
        try:
            return percent.decode(raw)
        except ValueError as error:
            raise self._error(f"{raw!r} {error}") from None

    def _match(self, pattern: re.Pattern[str], wanted: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise self._error(f"expected {wanted}")
        self._at = found.end()
        return found.group()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, token: str) -> bool:
        taken = self._text.startswith(token, self._at)
        self._at += len(token) if taken else 0
        return taken

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise self._error(f"expected {token!r}")

    def _error(self, problem: str) -> TemplateError:
        return TemplateError(f"{self._text!r}, column {self._at + 1}: {problem}")


def verbs_of(last_segment: str, colons: int) -> Iterator[tuple[str, str]]:
    """The ways to split a path's last segment into a rest and a verb that holds fewer than `colons` colons, longest verb first."""
    ends = [len(last_segment)]
    while len(ends) <= colons and (found := last_segment.rfind(":", 0, ends[-1])) >= 0:
        ends.append(found)
    for at in reversed(ends[1:]):
        yield last_segment[:at], last_segment[at + 1 :]
