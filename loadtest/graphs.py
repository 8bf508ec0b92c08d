"""Follow graphs: read from an edge list, or made up with a few celebrities."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_DIGITS = 12
"""Of a node number: with what goes before it, it is a username."""


class GraphError(ValueError):
    """A file is no edge list; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Who follows whom, by node number."""

    nodes: Sequence[int]
    edges: Sequence[tuple[int, int]]
    """(follower, followed)."""

    def by_followers(self) -> list[int]:
        """Nodes, the most followed first."""
        followers = Counter(followed for _, followed in self.edges)
        return sorted(self.nodes, key=lambda node: (-followers[node], node))


def read(path: Path) -> Graph:
    """An edge list: `from to` on each line, from follows to; lines that start with # or % and repeated edges are left out."""
    edges = dict.fromkeys(_edges(path))
    if not edges:
        raise GraphError(f"{path} holds no edge")
    nodes = sorted({node for edge in edges for node in edge})
    return Graph(nodes, list(edges))


def _edges(path: Path) -> Iterator[tuple[int, int]]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip() or line[0] in "#%":
                continue
            words = line.replace(",", " ").split()
            if len(words) < 2 or not all(word.isdecimal() and len(word) <= MOST_DIGITS for word in words[:2]):
                expected = f"two node numbers of at most {MOST_DIGITS} digits"
                raise GraphError(f"{path}:{number}: expected {expected}, found {line.strip()[:60]!r}")
            follower, followed = int(words[0]), int(words[1])
            if follower != followed:
                yield follower, followed


def generate(users: int, celebrities: int, seed: int = 1) -> Graph:
    """A small world: everybody follows some 20 others, the first nodes (the celebrities) are followed by nearly everybody.

    Popularity of the rest falls with their rank (Zipf), as in real follow graphs.
    """
    dice = random.Random(seed)
    nodes = range(1, users + 1)
    weights = [1 / rank for rank in nodes]
    edges: dict[tuple[int, int], None] = {}
    for node in nodes:
        chosen = dice.choices(nodes, weights, k=min(20, users - 1))
        famous = [star for star in range(1, celebrities + 1) if dice.random() < 0.9]
        edges.update(((node, followed), None) for followed in (*chosen, *famous) if followed != node)
    return Graph(nodes, list(edges))
