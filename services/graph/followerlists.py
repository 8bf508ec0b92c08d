"""Pure: which follower lists go into one answer."""

from collections.abc import Sequence

from services.graph.store import Standing

MOST_IDS = 100_000
"""Ids in one answer, some 900 KB: well within the largest message."""


def changed(standings: Sequence[Standing], known: Sequence[int]) -> set[int]:
    """Users whose list is not at the revision known of it: the shortest lists first, as many as fit."""
    chosen: set[int] = set()
    total = 0
    pairs = zip(standings, known, strict=True)
    for each in sorted(
        (each for each, revision in pairs if each.follower_revision != revision), key=lambda each: each.follower_count
    ):
        total += each.follower_count
        if total > MOST_IDS:
            break
        chosen.add(each.user_id)
    return chosen
