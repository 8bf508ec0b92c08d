"""Texts to tweet: real ones from a file or made-up ones, with mentions and hashtags mixed in."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

MENTIONS, HASHTAGS = 0.2, 0.15
"""Shares of tweets that get one: real short comments hardly have any."""
LONGEST = 200
"""Code points taken of a text: with mention and hashtag it stays within 280 even where characters weigh two."""
TAGS = ("news", "music", "sports", "python", "coffee", "weekend", "art", "science", "travel", "日本", "fußball", "música")
_SUBJECTS = ("The sea", "My neighbour", "This code", "The morning train", "Our cat", "That concert", "The weather", "Everyone here")
_VERBS = ("is", "was", "looks", "feels", "sounds", "stays", "will be")
_ENDINGS = (
    "lovely today",
    "quite a surprise",
    "better than expected",
    "late again",
    "not what it seems",
    "worth the wait 🎉",
    "très bien",
)


class TextError(ValueError):
    """A file holds no text; the message names it."""


def read(path: Path) -> list[str]:
    """First column of a tab-separated file, one text a line; what would be blank is left out."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        texts = [line.split("\t", 1)[0].strip()[:LONGEST] for line in lines]
    found = [text for text in texts if text]
    if not found:
        raise TextError(f"{path} holds no text")
    return found


def made_up() -> list[str]:
    """Enough sentences to look at."""
    return [f"{subject} {verb} {ending}." for subject in _SUBJECTS for verb in _VERBS for ending in _ENDINGS]


class Writer:
    """Writes tweets, the same ones for the same seed."""

    def __init__(self, texts: Sequence[str], username: Callable[[random.Random], str], seed: int) -> None:
        """`username` picks whom to mention."""
        self._texts, self._username, self._seed = texts, username, seed

    def write(self, number: int) -> str:
        """The text of the n-th tweet."""
        dice = random.Random(self._seed * 1_000_003 + number)
        text = dice.choice(self._texts).replace("\0", " ")
        if dice.random() < MENTIONS:
            text = f"@{self._username(dice)} {text}"
        if dice.random() < HASHTAGS:
            text = f"{text} #{dice.choice(TAGS)}"
        return text
