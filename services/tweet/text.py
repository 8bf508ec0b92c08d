"""What a tweet's text says and weighs, by twitter-text's rules: validation, weighted length, entities.

Pure: text in, frozen records out. All positions count Unicode code points of the NFC form, which is what is
stored and served; clients whose strings are UTF-16 convert. Rules: twitter-text 3 (config v3 is the current
one); its conformance suite is run by `tests/unit/test_text_conformance.py`.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from services.tweet import text_grammar as grammar

Kind = Literal["mention", "hashtag", "cashtag", "url"]
Span = tuple[int, int]
"""Start and end (exclusive), in code points."""


@dataclass(frozen=True, slots=True)
class Config:
    """How much each character weighs, in 1/`scale` of a counted character. `light_ranges` must hold ASCII."""

    scale: int
    light_weight: int
    default_weight: int
    light_ranges: tuple[tuple[int, int], ...]
    emoji_parsing: bool
    url_length: int = 23


_LIGHT_RANGES = ((0x0000, 0x10FF), (0x2000, 0x200D), (0x2010, 0x201F), (0x2032, 0x2037))
CONFIG_V1 = Config(1, 1, 1, ((0, 0x10FFFF),), emoji_parsing=False)
CONFIG_V2 = Config(100, 100, 200, _LIGHT_RANGES, emoji_parsing=False)
CONFIG_V3 = Config(100, 100, 200, _LIGHT_RANGES, emoji_parsing=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a tweet may hold. `max_bytes` is UTF-8 and guards the patterns: longer text is not looked into."""

    max_weighted_length: int = 280
    max_bytes: int = 5708
    max_hashtag_length: int = 100
    max_mentions: int = 50
    max_hashtags: int = 50
    max_cashtags: int = 50
    max_urls: int = 10

    def __post_init__(self) -> None:
        if self.max_weighted_length <= 0:
            raise ValueError("max_weighted_length must be positive")


_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Entity:
    """A part of the text that means something. `value` has no sigil; a URL is as written."""

    kind: Kind
    start: int
    end: int
    value: str


@dataclass(frozen=True, slots=True)
class MentionOrList:
    """`@screen_name`, or `@screen_name/slug`; `list_slug` keeps its slash and is empty for a mention."""

    screen_name: str
    list_slug: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TweetText:
    """Text as it is stored: NFC, never trimmed. `entities` are in order and do not overlap."""

    text: str
    weighted_length: int
    entities: tuple[Entity, ...]


class Problem(enum.Enum):
    """Why a text cannot be a tweet. BLANK alone is no obstacle to a tweet that carries media."""

    BLANK = "BLANK"
    TOO_LONG = "TOO_LONG"
    INVALID_CHARACTER = "INVALID_CHARACTER"
    TOO_MANY_BYTES = "TOO_MANY_BYTES"
    TOO_MANY_MENTIONS = "TOO_MANY_MENTIONS"
    TOO_MANY_HASHTAGS = "TOO_MANY_HASHTAGS"
    TOO_MANY_CASHTAGS = "TOO_MANY_CASHTAGS"
    TOO_MANY_URLS = "TOO_MANY_URLS"


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem with what a client needs to explain it: what was counted and what is allowed, or where."""

    problem: Problem
    actual: int | None = None
    maximum: int | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything known of a text. `permillage` is the length per thousand of the maximum; `valid_range` the
    longest prefix that fits and has no invalid character. A text of TOO_MANY_BYTES is not looked into: it stays
    as given, its weighted length is its number of code points, it has no entities and an empty valid range."""

    text: TweetText
    problems: tuple[Finding, ...]
    permillage: int
    valid_range: Span

    @property
    def valid(self) -> bool:
        """Whether the text alone, without media, can be a tweet."""
        return not self.problems


def analyse(text: str, limits: Limits = _LIMITS, config: Config = CONFIG_V3) -> Analysis:
    """Normalise, weigh, find entities and problems. Never raises, whatever the text."""
    size = _utf8_size(text)
    if size <= limits.max_bytes and not text.isascii():
        text = unicodedata.normalize("NFC", text)
        size = _utf8_size(text)  # some characters grow to three
    if size > limits.max_bytes:
        found = Finding(Problem.TOO_MANY_BYTES, actual=size, maximum=limits.max_bytes)
        permillage = len(text) * 1000 // limits.max_weighted_length
        return Analysis(TweetText(text, len(text), ()), (found,), permillage, (0, 0))

    urls = grammar.url_spans(text)
    atoms = _weighed_whole(text, urls, config)
    length = _weigh(text, atoms, config)
    entities = _entities(text, urls, limits.max_hashtag_length)
    problems, valid_end = _problems(text, length, entities, limits)
    if length > limits.max_weighted_length:
        valid_end = min(valid_end, _fitting_prefix(text, atoms, limits.max_weighted_length, config))
    permillage = length * 1000 // limits.max_weighted_length
    return Analysis(TweetText(text, length, entities), problems, permillage, (0, valid_end))


def extract_mentions(text: str) -> list[Entity]:
    """The users mentioned, at the positions of `text` as given (so of all extractors here)."""
    return _of_kind("mention", text)


def extract_hashtags(text: str) -> list[Entity]:
    """The hashtags, with # or ＃ before them in the text."""
    return _of_kind("hashtag", text)


def extract_cashtags(text: str) -> list[Entity]:
    """The cashtags: $ and a symbol of up to six letters."""
    return _of_kind("cashtag", text)


def extract_urls(text: str) -> list[Entity]:
    """The links, with their protocol or without it where the domain is known."""
    return _of_kind("url", text)


def extract_mentions_or_lists(text: str) -> list[MentionOrList]:
    """Mentions with the list they name, if any. Chirp has no lists: to `analyse` the slug is plain text."""
    return [MentionOrList(m[1], m[2] or "", m.start(), m.end()) for m in grammar.MENTION.finditer(text)]


def reply_screen_name(text: str) -> str | None:
    """The user whom a text addresses by beginning with their name."""
    match = grammar.REPLY.match(text)
    return match[1] if match else None


def normalise_hashtag(tag: str) -> str:
    """The form under which a tag is indexed: case and compatibility variants (full width) are one tag.

    Folding can undo normalisation and the other way round: in this order (Unicode D146) the result is stable.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", tag).casefold())
    return unicodedata.normalize("NFKC", folded.casefold())


def is_valid_username(text: str) -> bool:
    """Whether the whole text is one `@username`."""
    match = grammar.MENTION.fullmatch(text)
    return match is not None and match[2] is None


def is_valid_list(text: str) -> bool:
    """Whether the whole text is one `@username/list`."""
    match = grammar.MENTION.fullmatch(text)
    return match is not None and match[2] is not None


def is_valid_hashtag(text: str) -> bool:
    """Whether the whole text is one hashtag."""
    return grammar.HASHTAG.fullmatch(text) is not None


def is_valid_url(text: str, require_protocol: bool = True) -> bool:
    """Whether the whole text is one http(s) URL by RFC 3986; wider than what is found in running text
    (user names, ports, IP addresses), and as strict about hosts."""
    match = grammar.URL_PARTS.fullmatch(text)
    if match is None or (require_protocol and match["protocol"] is None):
        return False
    host = match["host"]
    if host.startswith("["):
        return _is_address(IPv6Address, host[1:-1])
    return _is_address(IPv4Address, host) or grammar.host_end_in(host, 0, len(host)) == len(host)


def _is_address(family: type[IPv4Address] | type[IPv6Address], host: str) -> bool:
    try:
        family(host)
    except ValueError:
        return False
    return True


def _utf8_size(text: str) -> int:
    if text.isascii():
        return len(text)
    return len(text.encode("utf-8", "surrogatepass"))


def _of_kind(kind: Kind, text: str) -> list[Entity]:
    return [entity for entity in _entities(text, grammar.url_spans(text)) if entity.kind == kind]


def _entities(text: str, urls: list[Span], max_hashtag_length: int | None = None) -> tuple[Entity, ...]:
    found = [Entity("url", start, end, text[start:end]) for start, end in urls]
    if "@" in text or "＠" in text:
        found += [Entity("mention", m.start(), m.end(1), m[1]) for m in grammar.MENTION.finditer(text)]
    if "#" in text or "＃" in text:
        tags = [Entity("hashtag", m.start(), m.end(), m[1]) for m in grammar.HASHTAG.finditer(text)]
        # Longer tags stay plain text: not refused, for a run of CJK after a "#" may be a sentence.
        found += [t for t in tags if max_hashtag_length is None or len(t.value) <= max_hashtag_length]
    if "$" in text:
        found += [Entity("cashtag", m.start(), m.end(), m[1]) for m in grammar.CASHTAG.finditer(text)]
    if len(found) < 2:
        return tuple(found)
    # "http://x.com/#tag" is a URL and "#日本x.com" a tag: whatever begins first holds what is inside it.
    found.sort(key=lambda entity: entity.start)
    kept = found[:1]
    for entity in found[1:]:
        if entity.start >= kept[-1].end:
            kept.append(entity)
    return tuple(kept)


@cache
def _heavy(light_ranges: tuple[Span, ...]) -> re.Pattern[str]:
    ranges = "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in light_ranges)
    return re.compile(f"[^{ranges}]+")


def _raw_weight(text: str, config: Config) -> int:
    """In 1/scale, each code point by itself."""
    if text.isascii():
        return len(text) * config.light_weight
    heavy = sum(map(len, _heavy(config.light_ranges).findall(text)))
    return len(text) * config.light_weight + heavy * (config.default_weight - config.light_weight)


def _weighed_whole(text: str, urls: list[Span], config: Config) -> list[tuple[int, int, int]]:
    """Start, end and weight of what does not weigh by its characters: URLs, and the emoji between them.

    URLs that a hashtag swallows count too, as in twitter-text: a client's own counter must agree with ours.
    """
    url_weight = config.url_length * config.scale
    if not config.emoji_parsing or text.isascii():
        return [(start, end, url_weight) for start, end in urls]
    atoms: list[tuple[int, int, int]] = []
    at = 0
    for start, end in [*urls, (len(text), len(text))]:
        emoji = grammar.EMOJI.finditer(text, at, start)
        atoms += [(m.start(), m.end(), config.default_weight) for m in emoji]
        if end > start:
            atoms.append((start, end, url_weight))
        at = end
    return atoms


def _weigh(text: str, atoms: list[tuple[int, int, int]], config: Config) -> int:
    total = _raw_weight(text, config)
    for start, end, weight in atoms:
        total += weight - _raw_weight(text[start:end], config)
    return total // config.scale


def _fitting_prefix(text: str, atoms: list[tuple[int, int, int]], maximum: int, config: Config) -> int:
    """End of the longest prefix within `maximum`; a URL or an emoji is in it whole or not at all."""
    room = maximum * config.scale
    at = 0
    for start, end, weight in [*atoms, (len(text), len(text), 0)]:
        for position in range(at, start):
            room -= _raw_weight(text[position], config)
            if room < 0:
                return position
        room -= weight
        if room < 0:
            return start
        at = end
    return at


def _problems(text: str, length: int, entities: tuple[Entity, ...], limits: Limits) -> tuple[tuple[Finding, ...], int]:
    """What is wrong with the text, and where its part without invalid characters ends."""
    found: list[Finding] = []
    if not text or grammar.INVISIBLE.fullmatch(text):
        found.append(Finding(Problem.BLANK))
    if length > limits.max_weighted_length:
        found.append(Finding(Problem.TOO_LONG, actual=length, maximum=limits.max_weighted_length))
    invalid = grammar.INVALID_CHARACTER.search(text)
    if invalid:
        found.append(Finding(Problem.INVALID_CHARACTER, position=invalid.start()))
    if entities:
        found += _too_many(entities, limits)
    return tuple(found), invalid.start() if invalid else len(text)


def _too_many(entities: tuple[Entity, ...], limits: Limits) -> list[Finding]:
    allowed: list[tuple[Kind, Problem, int]] = [
        ("mention", Problem.TOO_MANY_MENTIONS, limits.max_mentions),
        ("hashtag", Problem.TOO_MANY_HASHTAGS, limits.max_hashtags),
        ("cashtag", Problem.TOO_MANY_CASHTAGS, limits.max_cashtags),
        ("url", Problem.TOO_MANY_URLS, limits.max_urls),
    ]
    kinds = [entity.kind for entity in entities]
    return [
        Finding(problem, actual=count, maximum=maximum)
        for kind, problem, maximum in allowed
        if (count := kinds.count(kind)) > maximum
    ]
