"""The rules of tweet text, each by cases of our own; Twitter's suite is run by test_text_conformance.py."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.tweet import text as tweet_text
from services.tweet import text_grammar as grammar
from services.tweet.text import CONFIG_V1, CONFIG_V2, CONFIG_V3, Analysis, Entity, Finding, Limits, Problem, analyse

SIGILS = {"mention": "@＠", "hashtag": "#＃", "cashtag": "$"}
FAMILY = "👨‍👩‍👧‍👦"


def written(result: Analysis) -> list[str]:
    """The entities as they stand in the text, sigil included."""
    return [result.text.text[e.start : e.end] for e in result.text.entities]


# What is found in a text: (text, entities as written)
ENTITIES = [
    # mentions: what may precede
    ("@ada", ["@ada"]),
    ("hi @ada", ["@ada"]),
    ("＠ada", ["＠ada"]),
    ("(@ada)", ["@ada"]),
    ('"@ada"', ["@ada"]),
    (".@ada", ["@ada"]),
    ("見て@adaさん", ["@ada"]),
    ("é@ada", ["@ada"]),
    ("a@ada", []),
    ("7@ada", []),
    ("_@ada", []),
    ("!@ada", []),
    ("#@ada", []),
    ("$@ada", []),
    ("%@ada", []),
    ("&@ada", []),
    ("*@ada", []),
    ("@@ada", []),
    ("＠@ada", []),
    # mentions: the retweet prefix
    ("RT@ada", ["@ada"]),
    ("rt:@ada", ["@ada"]),
    ("start@ada", []),
    ("x.rt@ada", []),
    # mentions: what may follow, and how long
    ("@ada's", ["@ada"]),
    ("@ada.", ["@ada"]),
    ("@ada@bob", []),
    ("@adaé", []),
    ("@ada://", []),
    ("@ada/@bob", ["@ada", "@bob"]),
    ("@ada/friends", ["@ada"]),
    ("@" + "a" * 20, ["@" + "a" * 20]),
    ("@" + "a" * 21, ["@" + "a" * 20]),
    ("ada@example.com", []),
    ("@", []),
    # hashtags: letters of any script, and at least one
    ("#tag", ["#tag"]),
    ("＃tag", ["＃tag"]),
    ("#1", []),
    ("#1a", ["#1a"]),
    ("#_", []),
    ("#_a_1", ["#_a_1"]),
    ("#日本語", ["#日本語"]),
    ("#한국어입니다", ["#한국어입니다"]),
    ("#العربية_١", ["#العربية_١"]),
    ("#می\u200cشود", ["#می\u200cشود"]),
    ("#हिन्दी", ["#हिन्दी"]),
    ("#l·l", ["#l·l"]),
    ("#ラーメン・二郎", ["#ラーメン・二郎"]),
    ("#\U00020021", ["#\U00020021"]),
    ("#a-b", ["#a"]),
    ("#it's", ["#it"]),
    # hashtags: surroundings
    ("a#tag", []),
    ("日#tag", []),
    ("&#tag", []),
    ("#a#b", []),
    ("##a", ["#a"]),
    ("(#a)", ["#a"]),
    ("。#a", ["#a"]),
    ("#http://example.com", []),
    ("❤\ufe0f#a", ["#a"]),
    ("#\ufe0f\u20e3a", []),
    ("#a\n#b", ["#a", "#b"]),
    ("#" + "a" * 100, ["#" + "a" * 100]),
    ("#" + "a" * 101, []),
    # cashtags
    ("$TWTR", ["$TWTR"]),
    ("$brk.a up", ["$brk.a"]),
    ("$A_B", ["$A_B"]),
    ("$TWTR.", ["$TWTR"]),
    ("$TWTR.long", ["$TWTR"]),
    ("$SEVENSX", []),
    ("$1", []),
    ("$A1", []),
    ("x$A", []),
    ("$$A", []),
    ("$A株", []),
    ("\u200f$A", ["$A"]),
    # URLs with a protocol
    ("http://example.com", ["http://example.com"]),
    ("HTTPS://Example.COM/A", ["HTTPS://Example.COM/A"]),
    ("see:http://example.com", ["http://example.com"]),
    ("xhttp://example.com", []),
    ("@http://example.com", []),
    ("ftp://example.com", []),
    ("http://例え.jp/", ["http://例え.jp/"]),
    ("http://例え.テスト/", []),
    ("http://例え.みんなです", ["http://例え.みんな"]),
    ("http://a.भारतम्", ["http://a.भारतम्"]),  # not the shorter भारत
    ("http://a_b.example.com", ["http://a_b.example.com"]),
    ("http://a_b.com", []),
    ("http://-a.com", []),
    ("http://a-.com", []),
    ("http://a..com", []),
    ("http://localhost", []),
    ("http://example.com:8080/a", ["http://example.com:8080/a"]),
    ("http://example.com。http://example.org", ["http://example.com", "http://example.org"]),
    ("http://xn--fsq.xn--p1ai", ["http://xn--fsq.xn--p1ai"]),
    ("http://xn--日本.com", []),
    ("http://" + "a" * 63 + ".com", ["http://" + "a" * 63 + ".com"]),
    ("http://" + "a" * 64 + ".com", []),
    ("http://example.com/" + "a" * 4077, ["http://example.com/" + "a" * 4077]),
    ("http://example.com/" + "a" * 4078, []),
    # URLs without one
    ("example.com", ["example.com"]),
    ("example.co.uk/a", ["example.co.uk/a"]),
    ("example.bz2", []),
    ("example.comm", []),
    ("example.com-x", []),
    ("example.com+x", []),
    ("a@example.com", []),
    ("#example.com", ["#example"]),
    ("$example.com", []),
    ("-example.com", []),
    ("_example.com", []),
    ("/example.com", []),
    (".example.com", []),
    ("a_b.example.com", []),
    ("日本example.com日本", ["example.com"]),
    ("日本.com", []),
    ("Wait.What is.this", []),
    ("end of it.So long", ["it.So"]),
    ("example.vermögensberater", ["example.vermögensberater"]),
    # paths, queries, ends
    ("example.com/a.", ["example.com/a"]),
    ("example.com/a!?", ["example.com/a"]),
    ("example.com/a_(b)", ["example.com/a_(b)"]),
    ("example.com/a_(b(c))", ["example.com/a_(b(c))"]),
    ("(example.com/a)", ["example.com/a"]),
    ("example.com/(a", ["example.com/"]),
    ("example.com/a?b=c&d=e#f", ["example.com/a?b=c&d=e#f"]),
    ("example.com?a=b.", ["example.com?a=b"]),
    ("example.com?", ["example.com"]),
    ("example.com/слово", ["example.com/слово"]),
    ("example.com/日", ["example.com/"]),
    ("example.com/@ada/1", ["example.com/@ada/1"]),
    # t.co
    ("http://t.co/abc's", ["http://t.co/abc"]),
    ("http://t.co/abc?d=e", ["http://t.co/abc?d=e"]),
    ("http://t.co/" + "a" * 40, ["http://t.co/" + "a" * 40]),
    ("http://t.co/" + "a" * 41, []),
    # together: the first to begin holds what is inside it
    ("http://example.com/#tag @ada", ["http://example.com/#tag", "@ada"]),
    ("#日本example.com", ["#日本example"]),
    ("@ada #tag $TAG example.com", ["@ada", "#tag", "$TAG", "example.com"]),
    ("example.com $TAG #tag @ada", ["example.com", "$TAG", "#tag", "@ada"]),
    ("nothing here", []),
]


@pytest.mark.parametrize(("text", "expected"), ENTITIES)
def test_entities(text: str, expected: list[str]) -> None:
    assert written(analyse(text)) == expected


def test_entity_positions_are_code_points_of_the_normal_form() -> None:
    result = analyse("👨 cafe\u0301 #e\u0301te\u0301 @ada")

    assert result.text.text == "👨 café #été @ada"
    assert result.text.entities == (Entity("hashtag", 7, 11, "été"), Entity("mention", 12, 16, "ada"))


# How much a text weighs: (text, by config v1, v2, v3)
WEIGHTS = [
    ("", 0, 0, 0),
    ("abc", 3, 3, 3),
    ("é", 1, 1, 1),
    ("e\u0301", 1, 1, 1),
    ("\u10ff", 1, 1, 1),
    ("\u1100", 1, 2, 2),
    ("\u2000\u200d", 2, 2, 2),
    ("\u200e", 1, 2, 2),
    ("\u2010\u201f", 2, 2, 2),
    ("\u2020", 1, 2, 2),
    ("\u2032\u2037", 2, 2, 2),
    ("\u2038", 1, 2, 2),
    ("日本", 2, 4, 4),
    ("“a”", 3, 3, 3),
    ("😀", 1, 2, 2),
    (FAMILY, 7, 11, 2),
    (FAMILY * 2, 14, 22, 4),
    (f"H🐱☺{FAMILY}", 10, 16, 7),
    ("👍🏽", 2, 4, 2),
    ("❤️", 2, 4, 2),
    ("❤", 1, 2, 2),
    ("❤\ufe0e", 2, 4, 4),
    ("🇫🇷", 2, 4, 2),
    ("🇫🇷🇩🇪", 4, 8, 4),
    ("🇫", 1, 2, 2),
    ("1\u20e3", 2, 3, 2),
    ("#\ufe0f\u20e3", 3, 5, 2),
    ("1", 1, 1, 1),
    ("©", 1, 1, 1),
    ("©\ufe0f", 2, 3, 2),
    ("🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f", 7, 14, 2),
    ("👨\u200d", 2, 3, 3),
    ("\u200d👨", 2, 3, 3),
    ("👨\u200d❤\ufe0e", 4, 7, 7),
    ("👨\u200d" * 3 + "👨", 7, 11, 2),
    ("👨\u200d" * 4 + "👨", 9, 14, 5),  # five joined are no emoji: four, a joiner, one
    ("http://example.com", 23, 23, 23),
    ("example.com/" + "a" * 200, 23, 23, 23),
    ("a.co", 23, 23, 23),
    ("http://a", 8, 8, 8),
    ("http://日本.jp 日", 25, 26, 26),
    ("http://❤.ws ❤️", 26, 28, 26),
    ("#日example.com", 25, 26, 26),  # a client counts the URL, although the tag is what is shown
]


@pytest.mark.parametrize(("text", "v1", "v2", "v3"), WEIGHTS)
def test_weighted_length(text: str, v1: int, v2: int, v3: int) -> None:
    lengths = [analyse(text, config=config).text.weighted_length for config in (CONFIG_V1, CONFIG_V2, CONFIG_V3)]

    assert lengths == [v1, v2, v3]


LENGTH_LIMITS = [
    ("a" * 280, 280, 280),
    ("a" * 281, 280, 280),
    ("日" * 140, 280, 140),
    ("日" * 141, 280, 140),
    ("a" + "日" * 140, 280, 140),
    (FAMILY * 140, 280, 980),
    (FAMILY * 141, 280, 980),
    ("a" * 140, 140, 140),
    ("a" * 141, 140, 140),
    ("a" * 256 + " example.com/long", 280, 273),
    ("a" * 257 + " example.com/long", 280, 258),
    ("a" * 279 + "\uffff", 280, 279),
    ("a" * 10 + "\uffff" + "a" * 300, 280, 10),
]


@pytest.mark.parametrize(("text", "maximum", "valid_end"), LENGTH_LIMITS)
def test_valid_range_ends_where_the_text_stops_fitting(text: str, maximum: int, valid_end: int) -> None:
    result = analyse(text, Limits(max_weighted_length=maximum))

    assert result.valid_range == (0, valid_end)
    assert result.valid == (valid_end == len(text))


def test_too_long_says_how_long_and_how_long_it_may_be() -> None:
    result = analyse("a" * 281)

    assert result.problems == (Finding(Problem.TOO_LONG, actual=281, maximum=280),)
    assert result.permillage == 1003


BLANK = ["", " ", "\n\t ", "\u3000", "\u00a0", "\u200b", "\u2066\u2069", "\u200d\ufe0f"]


@pytest.mark.parametrize("text", BLANK)
def test_a_text_that_shows_nothing_is_blank(text: str) -> None:
    assert [found.problem for found in analyse(text).problems] == [Problem.BLANK]


@pytest.mark.parametrize("text", [" a", ".", "\u200ba", "😀", "\u0301"])
def test_a_text_that_shows_something_is_valid_and_not_trimmed(text: str) -> None:
    result = analyse(text)

    assert result.valid
    assert result.text.text == text


@pytest.mark.parametrize("character", ["\0", "\ufeff", "\ufffe", "\uffff", chr(0xD800), chr(0xDFFF)])
def test_an_invalid_character_is_refused_with_its_position(character: str) -> None:
    result = analyse(f"e\u0301bc{character}d{character}")

    assert result.problems == (Finding(Problem.INVALID_CHARACTER, position=3),)
    assert result.valid_range == (0, 3)


@pytest.mark.parametrize("character", ["\u202a", "\u2067", "\t", "\n", "\x7f", "\ufffd", "\ue000"])
def test_marks_and_controls_are_text(character: str) -> None:
    assert analyse(f"a{character}b").valid


@pytest.mark.parametrize(
    ("text", "size"),
    [("a" * 5709, 5709), ("日" * 1903, 5709), ("\ufb2c" * 1000, 6000), ("http://a.com" * 1000, 12000)],
)
def test_too_many_bytes_are_not_looked_into(text: str, size: int) -> None:
    result = analyse(text)

    assert result.problems == (Finding(Problem.TOO_MANY_BYTES, actual=size, maximum=5708),)
    assert result.text.entities == ()
    assert result.valid_range == (0, 0)


def test_the_byte_limit_itself_is_allowed() -> None:
    result = analyse("a" * 5708)

    assert [found.problem for found in result.problems] == [Problem.TOO_LONG]


@pytest.mark.parametrize(
    ("one", "allowed", "problem"),
    [
        ("@a ", 50, Problem.TOO_MANY_MENTIONS),
        ("#a ", 50, Problem.TOO_MANY_HASHTAGS),
        ("$a ", 50, Problem.TOO_MANY_CASHTAGS),
        ("a.co ", 10, Problem.TOO_MANY_URLS),
    ],
)
def test_entities_are_limited_by_kind(one: str, allowed: int, problem: Problem) -> None:
    roomy = Limits(max_weighted_length=1000)

    assert analyse(one * allowed, roomy).valid
    assert analyse(one * (allowed + 1), roomy).problems == (Finding(problem, actual=allowed + 1, maximum=allowed),)


def test_all_problems_are_told_at_once() -> None:
    problems = analyse("a.co " * 13 + "\0").problems

    assert [found.problem for found in problems] == [
        Problem.TOO_LONG,
        Problem.INVALID_CHARACTER,
        Problem.TOO_MANY_URLS,
    ]


def test_a_limit_of_nothing_is_a_mistake_in_the_configuration() -> None:
    with pytest.raises(ValueError, match="max_weighted_length"):
        Limits(max_weighted_length=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("@ada hi", "ada"),
        (" \u3000@ada", "ada"),
        ("\u2067＠ada", "ada"),
        ("hi @ada", None),
        (".@ada", None),
        ("@ada@example.com", None),
        ("@http://example.com", None),
    ],
)
def test_reply_screen_name(text: str, expected: str | None) -> None:
    assert tweet_text.reply_screen_name(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("@ada/friends", [("ada", "/friends", 0, 12)]),
        ("@ada/7", [("ada", "", 0, 4)]),
        ("@ada/" + "a" * 26, [("ada", "/" + "a" * 25, 0, 30)]),
        ("@ada, @bob/x_-1.", [("ada", "", 0, 4), ("bob", "/x_-1", 6, 15)]),
    ],
)
def test_lists(text: str, expected: list[tuple[str, str, int, int]]) -> None:
    found = tweet_text.extract_mentions_or_lists(text)

    assert [(m.screen_name, m.list_slug, m.start, m.end) for m in found] == expected


@pytest.mark.parametrize(
    ("text", "username", "list_", "hashtag"),
    [
        ("@ada", True, False, False),
        ("@ada/x", False, True, False),
        ("@ada ", False, False, False),
        ("@ada\n", False, False, False),
        ("@" + "a" * 21, False, False, False),
        ("#ada", False, False, True),
        ("#ada!", False, False, False),
        ("ada", False, False, False),
    ],
)
def test_validators_of_names(text: str, username: bool, list_: bool, hashtag: bool) -> None:
    assert tweet_text.is_valid_username(text) is username
    assert tweet_text.is_valid_list(text) is list_
    assert tweet_text.is_valid_hashtag(text) is hashtag


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("https://example.com/a?b=c#d", True),
        ("http://ada:secret@example.com:80/", True),
        ("http://10.0.0.1/", True),
        ("http://[2001:db8::1]:80/a", True),
        ("http://[1:2]/", False),
        ("http://10.0.0.256/", False),
        ("http://example.bz2/", False),
        ("http://a_b.com/", False),
        ("http://example.com/%zz", False),
        ("http://example.com/a b", False),
        ("http://example.com\n", False),
        ("gopher://example.com", False),
        ("example.com", False),
        ("http://", False),
        ("", False),
    ],
)
def test_validator_of_urls(text: str, valid: bool) -> None:
    assert tweet_text.is_valid_url(text) is valid


def test_the_protocol_may_be_left_out_only_where_allowed() -> None:
    assert tweet_text.is_valid_url("example.com/a", require_protocol=False)
    assert not tweet_text.is_valid_url("example.com/a")


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("Tag", "tag"),
        ("ＴＡＧ１", "tag1"),
        ("straße", "strasse"),
        ("e\u0301", "é"),
        ("ﾊﾟ", "パ"),
        ("日本", "日本"),
        ("ΣΊΣΥΦΟΣ", "σίσυφοσ"),
    ],
)
def test_normalise_hashtag(tag: str, expected: str) -> None:
    assert tweet_text.normalise_hashtag(tag) == expected


def test_top_level_domains_are_in_the_form_they_are_compared_in() -> None:
    assert {"com", "jp", "みんな", "vermögensberater"} <= grammar.TLDS
    assert {n for n in grammar.TLDS if n != unicodedata.normalize("NFC", n.lower())} == set()


# Texts that are likely to mean something: any character, and the ones the rules are about.
# fmt: off
PIECES = st.sampled_from([
    "@", "＠", "#", "＃", "$", ".", "/", ":", "?", "(", ")", "-", "_", "://", "http://", "t.co/", "a.com", "com",
    "ada", "1", "é", "e", "\u0301", "日本", "みんな", "\u200d", "\ufe0f", "\ufe0e", "\u20e3", "👨", "🏽", "🇫", "©",
    " ", "\n", "\u3000", "\u202a", "\0", "\ufeff", "\ufb2c", chr(0xD800), "\u1100", "\u1161", "rt", "xn--",
])
# fmt: on
ANY_CHARACTER = st.text(st.characters(exclude_categories=()))
TEXTS = st.lists(st.one_of(PIECES, PIECES, ANY_CHARACTER), max_size=30).map("".join)
EVERY = settings(deadline=None, database=None, max_examples=300)
ROOMY = Limits(max_weighted_length=10**6, max_bytes=10**6)


@EVERY
@given(TEXTS, st.sampled_from([CONFIG_V1, CONFIG_V2, CONFIG_V3]))
def test_entities_slice_back_and_never_overlap(text: str, config: tweet_text.Config) -> None:
    result = analyse(text, config=config).text

    end = 0
    for entity in result.entities:
        assert entity.start >= end
        end = entity.end
        part = result.text[entity.start : end]
        if entity.kind == "url":
            assert part == entity.value
        else:
            assert part[0] in SIGILS[entity.kind]
            assert part[1:] == entity.value


@EVERY
@given(TEXTS)
def test_every_reader_of_text_takes_any_text(text: str) -> None:
    tweet_text.extract_mentions_or_lists(text)
    tweet_text.reply_screen_name(text)
    for extract in (
        tweet_text.extract_mentions,
        tweet_text.extract_hashtags,
        tweet_text.extract_cashtags,
        tweet_text.extract_urls,
    ):
        for entity in extract(text):
            assert text[entity.start : entity.end].endswith(entity.value)
    for validate in (
        tweet_text.is_valid_username,
        tweet_text.is_valid_list,
        tweet_text.is_valid_hashtag,
        tweet_text.is_valid_url,
    ):
        assert validate(text) in (True, False)


@EVERY
@given(TEXTS)
def test_the_stored_text_is_normal_and_says_the_same_again(text: str) -> None:
    once = analyse(text)

    assert unicodedata.is_normalized("NFC", once.text.text)
    assert analyse(once.text.text) == once


@EVERY
@given(TEXTS, TEXTS)
def test_texts_apart_weigh_and_mean_what_each_does(left: str, right: str) -> None:
    one, other = analyse(left, ROOMY).text, analyse(right, ROOMY).text
    shift = len(one.text) + 1

    both = analyse(f"{left} {right}", ROOMY).text

    assert both.weighted_length == one.weighted_length + 1 + other.weighted_length
    moved = tuple(Entity(e.kind, e.start + shift, e.end + shift, e.value) for e in other.entities)
    assert both.entities == one.entities + moved


@EVERY
@given(TEXTS)
def test_the_weighted_length_is_bounded_by_characters_and_urls(text: str) -> None:
    result = analyse(text, ROOMY).text

    urls = grammar.url_spans(result.text)
    in_urls = sum(end - start for start, end in urls)
    assert result.weighted_length <= 2 * (len(result.text) - in_urls) + 23 * len(urls)
    assert result.weighted_length >= 23 * len(urls)


@EVERY
@given(TEXTS, st.integers(1, 60))
def test_the_valid_range_is_short_of_the_end_exactly_when_the_text_is_refused(text: str, maximum: int) -> None:
    result = analyse(text, Limits(max_weighted_length=maximum))
    end = result.valid_range[1]

    assert not grammar.INVALID_CHARACTER.search(result.text.text[:end])
    refused = {found.problem for found in result.problems} & {Problem.TOO_LONG, Problem.INVALID_CHARACTER}
    assert (end < len(result.text.text)) == bool(refused)


@EVERY
@given(ANY_CHARACTER)
def test_normalising_a_hashtag_twice_changes_nothing(tag: str) -> None:
    once = tweet_text.normalise_hashtag(tag)

    assert tweet_text.normalise_hashtag(once) == once


# Shapes that make a backtracking or restarting reader quadratic: (before, repeated, after).
HOSTILE = [
    ("", "a", ""),
    ("", "a.", ""),
    ("x.y ", "a", ""),
    ("", "a-", ""),
    ("", "a_.com", ""),
    ("", ".com", ""),
    ("", "http://", ""),
    ("", "http://a.", ""),
    ("http://", "a.", ""),
    ("http://_.", "com.", ""),
    ("http://", "あ", ".com"),
    ("", "http://あ.", ""),
    ("", "http://a.com中", ""),
    ("", "a.みんな", ""),
    ("", "a.co/(", ""),
    ("", "a.co/((b)", ""),
    ("a.co/(", "(b)", ""),
    ("a.co/", "(b)", "("),
    ("a.co/", "!", ""),
    ("a.co?", "!", ""),
    ("", "a.co:8", ""),
    ("", "http://t.co/a'", ""),
    ("", "#1", ""),
    ("#", "1", "a#"),
    ("", "@a", ""),
    ("", "rt@a", ""),
    ("", "$A.B ", ""),
    ("", "👨‍", ""),
    ("", "🇫", ""),
    ("", "\u200b", ""),
]


@pytest.mark.timeout(30)  # linear: well under a second; quadratic: minutes
@pytest.mark.parametrize(("before", "repeated", "after"), HOSTILE)
def test_hostile_texts_cost_no_more_than_their_length(before: str, repeated: str, after: str) -> None:
    text = before + repeated * (400_000 // len(repeated)) + after

    result = analyse(text, Limits(max_bytes=10**7))

    assert result.text.text == text
    assert result.valid_range[1] <= len(text)


@pytest.mark.timeout(30)
def test_the_bytes_are_counted_before_anything_is_done_with_them() -> None:
    # Canonical ordering of such a run is quadratic in the standard library.
    result = analyse("a" + "\u0315\u0300" * 1_000_000)

    assert [found.problem for found in result.problems] == [Problem.TOO_MANY_BYTES]
