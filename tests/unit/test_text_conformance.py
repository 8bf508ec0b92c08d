"""Twitter's own conformance suite, read where it is: CHIRP_TWITTER_TEXT, else ../shared/data/twitter-text.

The suite is not part of the project; without it there are no cases here, `test_suite_folder` says where it was
looked for, and `test_text.py` still covers each rule. Upstream asks that the files be read, not copied.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.tweet import text as tweet_text
from services.tweet.text import CONFIG_V1, CONFIG_V2, CONFIG_V3, Config, Entity, Limits

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("CHIRP_TWITTER_TEXT") or REPOSITORY.parent / "shared/data/twitter-text")
NAMED = "CHIRP_TWITTER_TEXT" in os.environ
FILES = {"extract.yml": 100, "validate.yml": 90, "tlds.yml": 1500}  # at least so many cases

# The suite has a text of 12,000 characters whose weight it expects; our byte limit would not look into it.
UNBOUNDED = 1_000_000


def _values(entities: Iterable[Entity]) -> list[str]:
    return [entity.value for entity in entities]


def _indexed(name: str, entities: Iterable[Entity]) -> list[dict[str, Any]]:
    return [{name: entity.value, "indices": [entity.start, entity.end]} for entity in entities]


def _lists(text: str) -> list[dict[str, Any]]:
    return [
        {"screen_name": m.screen_name, "list_slug": m.list_slug, "indices": [m.start, m.end]}
        for m in tweet_text.extract_mentions_or_lists(text)
    ]


def _is_tweet(text: str) -> bool:
    return tweet_text.analyse(text, Limits(max_weighted_length=140), CONFIG_V1).valid


def _utf16(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _weighed(config: Config) -> Callable[[str], dict[str, Any]]:
    """The suite's result: inclusive ends in UTF-16 units, in the text as given (ours: NFC, code points)."""

    def weigh(text: str) -> dict[str, Any]:
        result = tweet_text.analyse(text, Limits(max_bytes=UNBOUNDED, max_urls=UNBOUNDED), config)
        shrunk = _utf16(text) - _utf16(unicodedata.normalize("NFC", text))
        start, end = result.valid_range
        return {
            "weightedLength": result.text.weighted_length,
            "valid": result.valid,
            "permillage": result.permillage,
            "displayRangeStart": 0,
            "displayRangeEnd": _utf16(text) - 1,
            "validRangeStart": start,
            "validRangeEnd": _utf16(result.text.text[:end]) + shrunk - 1,
        }

    return weigh


ACTS: dict[str, Callable[[str], Any]] = {
    "extract.yml/mentions": lambda text: _values(tweet_text.extract_mentions(text)),
    "extract.yml/mentions_with_indices": lambda text: _indexed("screen_name", tweet_text.extract_mentions(text)),
    "extract.yml/mentions_or_lists_with_indices": _lists,
    "extract.yml/replies": tweet_text.reply_screen_name,
    "extract.yml/urls": lambda text: _values(tweet_text.extract_urls(text)),
    "extract.yml/urls_with_indices": lambda text: _indexed("url", tweet_text.extract_urls(text)),
    "extract.yml/urls_with_directional_markers": lambda text: _indexed("url", tweet_text.extract_urls(text)),
    "extract.yml/tco_urls_with_params": lambda text: _values(tweet_text.extract_urls(text)),
    "extract.yml/hashtags": lambda text: _values(tweet_text.extract_hashtags(text)),
    "extract.yml/hashtags_from_astral": lambda text: _values(tweet_text.extract_hashtags(text)),
    "extract.yml/hashtags_with_indices": lambda text: _indexed("hashtag", tweet_text.extract_hashtags(text)),
    "extract.yml/cashtags": lambda text: _values(tweet_text.extract_cashtags(text)),
    "extract.yml/cashtags_with_indices": lambda text: _indexed("cashtag", tweet_text.extract_cashtags(text)),
    "validate.yml/tweets": _is_tweet,
    "validate.yml/usernames": tweet_text.is_valid_username,
    "validate.yml/lists": tweet_text.is_valid_list,
    "validate.yml/hashtags": tweet_text.is_valid_hashtag,
    "validate.yml/urls": tweet_text.is_valid_url,
    "validate.yml/urls_without_protocol": lambda text: tweet_text.is_valid_url(text, require_protocol=False),
    "validate.yml/WeightedTweetsCounterTest": _weighed(CONFIG_V2),
    "validate.yml/WeightedTweetsWithDiscountedEmojiCounterTest": _weighed(CONFIG_V3),
    "validate.yml/UnicodeDirectionalMarkerCounterTest": _weighed(CONFIG_V3),
    "tlds.yml/country": lambda text: _values(tweet_text.extract_urls(text)),
    "tlds.yml/generic": lambda text: _values(tweet_text.extract_urls(text)),
}


def _sections(file: str) -> dict[str, list[dict[str, Any]]]:
    path = FOLDER / "conformance" / file
    if not path.exists():
        return {}
    return yaml.safe_load(path.read_text("utf-8"))["tests"]


CASES = [
    pytest.param(f"{file}/{section}", case, id=f"{section}-{number}")
    for file in FILES
    for section, listed in _sections(file).items()
    for number, case in enumerate(listed)
]

if CASES:  # without the suite there is no such test, rather than one that passes or skips for nothing

    @pytest.mark.parametrize(("section", "case"), CASES)
    def test_case_of_the_suite(section: str, case: dict[str, Any]) -> None:
        assert ACTS[section](case["text"]) == case["expected"], case["description"]


if CASES or NAMED:

    def test_the_suite_is_whole() -> None:
        """A folder that is there, or was named, must hold the whole suite: a wrong path is no pass."""
        for file, least in FILES.items():
            count = sum(len(cases) for cases in _sections(file).values())
            assert count >= least, f"{count} cases of {file} in {FOLDER}, expected at least {least}"
        assert {case.values[0] for case in CASES} == set(ACTS)
