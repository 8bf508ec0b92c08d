"""Finds what serves a method and a path: a dictionary of the literal paths, behind it a trie of segments.

Lookups cost one dictionary access for a literal path, else one per segment; the number of routes does not matter.
"""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gateway import percent
from gateway.template import Template, Wildcard, verbs_of

T = TypeVar("T")
ANY_METHOD = "*"


class DuplicateRoute(ValueError):
    """Two templates that match the same paths, for the same method."""


class NoRoute(LookupError):
    """Nothing is served at this path."""


class MethodNotAllowed(LookupError):
    """The path is served, but only for the methods in `allowed`."""

    def __init__(self, allowed: set[str]) -> None:
        super().__init__(", ".join(sorted(allowed)))
        self.allowed = allowed


class UndecodablePath(ValueError):
    """A segment that a variable takes has a broken escape or is not UTF-8; `variable` names it."""

    def __init__(self, variable: str, problem: str) -> None:
        super().__init__(f"{variable} {problem}")
        self.variable = variable
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Match(Generic[T]):
    """What serves a request, and the text of each variable of its template, in the template's order."""

    value: T
    captured: tuple[str, ...]


@dataclass(slots=True)
class _Entry(Generic[T]):
    template: Template
    value: T
    bare: Match[T] | None
    """The ready answer of a template without variables."""


_Leaves = dict[str, dict[str, _Entry[T]]]
"""By verb, then by method."""


@dataclass(slots=True)
class _Node(Generic[T]):
    literals: "dict[str, _Node[T]]" = field(default_factory=dict)
    one: "_Node[T] | None" = None
    here: _Leaves[T] = field(default_factory=dict)
    rest: _Leaves[T] = field(default_factory=dict)


class Matcher(Generic[T]):
    """Routes by method and template; built once, then only read."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._literal: dict[str, dict[str, Match[T]]] = {}
        self._verbs: set[str] = set()

    def add(self, method: str, template: Template, value: T) -> None:
        """Adds a route; DuplicateRoute if its method and paths are taken. Method "*" serves what no other method does."""
        node, leaves = self._root, None
        for segment in template.segments:
            if segment is Wildcard.REST:
                leaves = node.rest
            elif segment is Wildcard.ONE:
                node.one = node = node.one or _Node()
            else:
                node = node.literals.setdefault(segment, _Node())
        methods = (node.here if leaves is None else leaves).setdefault(template.verb, {})
        if method in methods:
            raise DuplicateRoute(f"{method} {template.text} and {method} {methods[method].template.text} match the same paths")
        bare = None if template.variables else Match(value, ())
        methods[method] = _Entry(template, value, bare)
        self._verbs.update({template.verb} - {""})
        if template.literal and bare and percent.decode(template.text) == template.text:
            self._literal.setdefault(template.text, {})[method] = bare

    def find(self, method: str, path: str) -> Match[T]:
        """What serves `path` (undecoded, without query); NoRoute, MethodNotAllowed or UndecodablePath if nothing can."""
        literal = self._literal.get(path)
        if literal is not None and method in literal:
            return literal[method]
        if not path.startswith("/"):
            raise NoRoute(path)
        segments = path[1:].split("/") if len(path) > 1 else []
        search = _Search(method, self._verbs)
        entry = search.run(self._root, segments)
        if entry is None:
            raise MethodNotAllowed(search.allowed) if search.allowed else NoRoute(path)
        return entry.bare or Match(entry.value, _capture(entry.template, search.segments))

    def methods(self, path: str) -> set[str]:
        """The methods that serve a path; empty if it is not served."""
        search: _Search[T] = _Search("", self._verbs)
        search.run(self._root, path[1:].split("/") if len(path) > 1 else [])
        return search.allowed


class _Search(Generic[T]):
    """One walk through the trie; `allowed` collects the methods of matching paths that lack the wanted one."""

    __slots__ = ("_colons", "_method", "_verb", "_verbs", "allowed", "segments")

    def __init__(self, method: str, verbs: set[str]) -> None:
        self._method = method
        self._verbs = verbs
        self._colons = 1 + max((verb.count(":") for verb in verbs), default=-1)
        self._verb = ""
        self.segments: list[str] = []
        self.allowed: set[str] = set()

    def run(self, root: _Node[T], segments: list[str]) -> _Entry[T] | None:
        if segments and ":" in segments[-1]:
            for rest, verb in verbs_of(segments[-1], self._colons):
                entry = self._with_verb(root, [*segments[:-1], rest], verb)
                if entry is not None:
                    return entry
        self._verb, self.segments = "", segments
        return self._walk(root, 0)

    def _with_verb(self, root: _Node[T], segments: list[str], raw: str) -> _Entry[T] | None:
        self._verb, self.segments = _decoded(raw) or "", segments
        return self._walk(root, 0) if self._verb in self._verbs else None

    def _walk(self, node: _Node[T], at: int) -> _Entry[T] | None:
        if at == len(self.segments):
            return self._pick(node.here) or self._pick(node.rest)
        segment = self.segments[at]
        child = node.literals.get(segment if "%" not in segment else _decoded(segment) or "")
        entry = self._walk(child, at + 1) if child else None
        if entry is None and node.one and segment:
            entry = self._walk(node.one, at + 1)
        return entry or self._pick(node.rest)

    def _pick(self, leaves: _Leaves[T]) -> _Entry[T] | None:
        methods = leaves.get(self._verb)
        if methods is None:
            return None
        entry = methods.get(self._method) or (methods.get("GET") if self._method == "HEAD" else None)
        entry = entry or methods.get(ANY_METHOD)
        if entry is None or not self._method:
            self.allowed.update(methods)
            return None
        return entry


def _decoded(segment: str) -> str | None:
    try:
        return percent.decode(segment)
    except ValueError:
        return None


def _capture(template: Template, segments: list[str]) -> tuple[str, ...]:
    captured: list[str] = []
    for variable in template.variables:
        try:
            captured.append(variable.capture(segments))
        except ValueError as error:
            raise UndecodablePath(".".join(variable.path), str(error)) from None
    return tuple(captured)
