"""twitter-text's grammar: the character classes, the compiled patterns, and where a URL starts and ends.

Every pattern is linear in the text: repetitions that could give characters back are possessive, and URLs are
found by cutting the text into host-like runs once instead of trying a URL at each character.
"""

from __future__ import annotations

import re
from importlib.resources import files

import regex

# Letters beyond ASCII that Latin-script users type inside words. twitter-text lets them into protocol-less
# hosts and paths, and refuses a mention that one of them directly follows.
LATIN = (
    "\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0253\u0254\u0256\u0257\u0259\u025b\u0263\u0268\u026f"
    "\u0272\u0289\u02bb\u0300-\u036f\u1e00-\u1eff"
)
SPACES = "\t-\r \x85\xa0\u1680\u180e\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
DIRECTION_MARKS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_CYRILLIC = "\u0400-\u04ff"

# Not text at all: the three that twitter-text names, NUL (PostgreSQL cannot store it) and halves of
# surrogate pairs (neither UTF-8 nor protobuf can carry them).
INVALID_CHARACTER = re.compile("[\0\ufeff\ufffe\uffff\ud800-\udfff]")

# Nothing a reader could see: white space and the characters that Unicode says are drawn as nothing.
INVISIBLE = regex.compile(r"[\s\p{Default_Ignorable_Code_Point}]*+")

# --- mentions, cashtags -------------------------------------------------------------------------------

_USERNAME = r"([A-Za-z0-9_]{1,20}+)"
# What may not follow: "@user@host" is an address, "@http://" a protocol, "@aliceì" a longer word.
_MENTION_STOP = rf"(?![@＠{LATIN}]|://)"

# Group 1 the username, group 2 "/slug" of a list. The sigil comes first so that the engine can jump to it;
# looking back across it, "." stands for the sigil. "RT@user" is allowed although "T" is a word character.
MENTION = re.compile(
    r"[@＠](?:(?<![A-Za-z0-9_!#$%&*@＠].)|(?<=(?<![A-Za-z0-9_+~.\-])[Rr][Tt].))"
    rf"{_USERNAME}(/[A-Za-z][A-Za-z0-9_\-]{{0,24}}+)?+{_MENTION_STOP}"
)
REPLY = re.compile(rf"[{SPACES}{DIRECTION_MARKS}]*+[@＠]{_USERNAME}{_MENTION_STOP}")

# One to six letters, optionally ".XX" or "_XX", standing free on the left and before a space or punctuation.
CASHTAG = re.compile(
    rf"\$(?<![^{SPACES}{DIRECTION_MARKS}].)([A-Za-z]{{1,6}}(?:[._][A-Za-z]{{1,2}})?)"
    rf"(?=\Z|[{SPACES}!'#%&()*+,\-./:;<=>?@\[\]\^_{{|}}~$\\])"
)

# --- hashtags -----------------------------------------------------------------------------------------

# Joiners, dashes and marks that words of some script need; alone they do not make a tag.
_TAG_MARKS = r"_\u200c\u200d\ua67e\u05be\u05f3\u05f4\uff5e\u301c\u309b\u309c\u30a0\u30fb\u3003\u0f0b\u0f0c\u00b7"
_TAG_WORD = rf"\p{{L}}\p{{M}}\p{{Nd}}{_TAG_MARKS}"
# Variation selectors are marks (\p{M}), but they end an emoji, after which a tag may start. A "#" with
# U+FE0F or U+20E3 is itself an emoji (the keycap).
HASHTAG = regex.compile(
    rf"(?V1)[#＃](?<![[&{_TAG_WORD}]--[\ufe0e\ufe0f]].)(?!\ufe0f|\u20e3)"
    rf"(?=[\p{{Nd}}{_TAG_MARKS}]*+[\p{{L}}\p{{M}}])([{_TAG_WORD}]++)(?![#＃]|://)"
)

# --- emoji --------------------------------------------------------------------------------------------

# UTS #51 sequences. © and ® are text unless U+FE0F asks for the picture; the others are pictures unless
# U+FE0E asks for text. The joined length is bounded (no emoji in use joins more than four), and so are
# tags: otherwise a 280-character tweet could carry any amount of text that counts as one emoji.
_PICTURE = r"(?:[\p{Extended_Pictographic}&&\p{Emoji}--[©®]](?!\ufe0e)[\U0001f3fb-\U0001f3ff]?+\ufe0f?+|[©®]\ufe0f)"
EMOJI = regex.compile(
    r"(?V1)[0-9#*]\ufe0f?+\u20e3"
    r"|[\U0001f1e6-\U0001f1ff]{2}"
    r"|\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}+\U000e007f"
    rf"|{_PICTURE}(?:\u200d{_PICTURE}){{0,3}}+"
)

# --- URLs ---------------------------------------------------------------------------------------------

MAX_URL_LENGTH = 4096
MAX_TCO_SLUG_LENGTH = 40
_MAX_LABEL_LENGTH = 63  # RFC 1035, counted after Punycode

TLDS = frozenset(
    name
    for line in files("services.tweet").joinpath("tlds.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
    for name in line.split()
)
_IDN_TLDS = frozenset(name for name in TLDS if not name.isascii())
_IDN_TLD_STARTS = frozenset(name[0] for name in _IDN_TLDS)
_IDN_TLD_LENGTHS = sorted({len(name) for name in _IDN_TLDS}, reverse=True)

_ALNUM = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NO_URL_AFTER = frozenset(_ALNUM + "@＠$#＃\ufeff\ufffe\uffff")
_NO_BARE_URL_AFTER = _NO_URL_AFTER | frozenset("-_./")

# A dot before a letter: without one there is no domain, and most tweets are done here.
_DOT_LETTER = re.compile(r"\.[^\W\d_]")
# Whatever may stand in a host, dots included: no ASCII punctuation but "-_.", no space or control, and none
# of the dots that IDNA takes for separators but people use as full stops.
_HOST_CHAR = rf"[^\0-,/:-@\[-^`{{-\x9f{SPACES}{DIRECTION_MARKS}\u3002\uff0e\uff61\ufeff\ufffe\uffff\ud800-\udfff]"
_HOST_RUN = re.compile(rf"{_HOST_CHAR}++")
# A host without a protocol is Latin script only, so it ends where Japanese or Korean text goes on.
_BARE_HOST = re.compile(rf"[A-Za-z0-9\-{LATIN}]++(?:\.[A-Za-z0-9\-{LATIN}]++)*+\.?")
_ASCII_TLD = re.compile(r"(?:[Xx][Nn]--[0-9A-Za-z\-]++|[A-Za-z]++)(?![0-9A-Za-z@+\-])")
_NOT_AFTER_TLD = frozenset(_ALNUM + "@+-")

_PORT = re.compile(r":[0-9]++")
_PATH_CHARS = rf"A-Za-z0-9{_CYRILLIC}{LATIN}!*';:=+,.$/%#\[\]\-\u2013_~@|&"
# Parentheses belong to a path when balanced, one level deep: wiki/Primer_(film).
_PATH = re.compile(rf"/(?:[{_PATH_CHARS}]++|\((?:[{_PATH_CHARS}]++|(?=\())(?:\([{_PATH_CHARS}]++\)[{_PATH_CHARS}]*+)?+\))*+")
_PATH_LOOSE_ENDS = "!*';:,.$%[]\u2013~@|&"
_QUERY = re.compile(r"\?[A-Za-z0-9!?*'@();:&=+$/%#\[\]\-_.,~|]*+")
_QUERY_LOOSE_ENDS = "!?*'@();:+$%[].,~|"
_TCO_SLUG = re.compile(r"/([A-Za-z0-9]++)")

# A whole URL by RFC 3986, Cyrillic and Latin letters unescaped. What the host may be is left to the caller.
_ESCAPED = "%[0-9A-Fa-f]{2}"
_USERINFO_CHAR = rf"(?:[A-Za-z0-9._~!$&'()*+,;=:\-]|{_ESCAPED})"
_URL_CHAR = rf"(?:[A-Za-z0-9{_CYRILLIC}{LATIN}._~!$&'()*+,;=:@|/\-]|{_ESCAPED})"
URL_PARTS = re.compile(
    rf"(?:(?P<protocol>[Hh][Tt][Tt][Pp][Ss]?)://)?(?:{_USERINFO_CHAR}*+@)?"
    rf"(?P<host>\[[0-9A-Fa-f:.]++\]|{_HOST_CHAR}++)(?:{_PORT.pattern})?"
    rf"(?:/{_URL_CHAR}*+)?(?:\?(?:{_URL_CHAR}|\?)*+)?(?:#(?:{_URL_CHAR}|\?)*+)?"
)


def url_spans(text: str) -> list[tuple[int, int]]:
    """Start and end (exclusive) of each URL, in code points, in order."""
    dot = _DOT_LETTER.search(text)
    if dot is None:
        return []
    spans: list[tuple[int, int]] = []
    at = text.rfind(" ", 0, dot.start()) + 1  # no run crosses a space
    while run := _HOST_RUN.search(text, at):
        start, at = run.span()
        if text.find(".", start, at) < 0:
            continue
        begin = _protocol_start(text, start)
        if begin >= 0 and (host_end := host_end_in(text, start, at)) > 0:
            at = _take(text, begin, start, host_end, spans)
            continue
        for host in _BARE_HOST.finditer(text, start, at):
            begin = host.start()
            if begin and text[begin - 1] in _NO_BARE_URL_AFTER:
                continue
            if (host_end := host_end_in(text, begin, host.end())) > 0:
                at = max(at, _take(text, begin, begin, host_end, spans))
    return spans


def host_end_in(text: str, start: int, stop: int) -> int:
    """End of the longest host that begins at `start` and has its last dot before `stop`; -1 if there is none."""
    longest = -1
    while (dot := text.find(".", start, stop)) >= 0:
        label = text[start:dot]
        if not _is_label(label):
            break
        start = dot + 1
        # Subdomains may hold underscores, the registered name may not.
        if "_" not in label and (end := _tld_end(text, start)) > 0:
            longest = end
    return longest


def _is_label(label: str) -> bool:
    if not label or label[0] in "-_" or label[-1] in "-_":
        return False
    if label.isascii():
        return len(label) <= _MAX_LABEL_LENGTH
    # Punycode costs at least one character a code point: longer labels need no encoding, which is quadratic.
    if len(label) + len("xn--") > _MAX_LABEL_LENGTH or label[:4].lower() == "xn--":
        return False
    return len(label.lower().encode("punycode")) + len("xn--") <= _MAX_LABEL_LENGTH


def _tld_end(text: str, start: int) -> int:
    match = _ASCII_TLD.match(text, start)
    if match is not None:
        name = match[0].lower()
        if name in TLDS or name.startswith("xn--"):
            return match.end()
    if text[start : start + 1].lower() not in _IDN_TLD_STARTS:
        return -1
    # Such a name may run on into text without a space, so every length is tried, the longest first.
    for length in _IDN_TLD_LENGTHS:
        end = start + length
        if text[start:end].lower() in _IDN_TLDS and text[end : end + 1] not in _NOT_AFTER_TLD:
            return end
    return -1


def _protocol_start(text: str, host_start: int) -> int:
    if not text.endswith("://", 0, host_start):
        return -1
    for protocol in ("https://", "http://"):
        start = host_start - len(protocol)
        if start >= 0 and text[start:host_start].lower() == protocol:
            return -1 if start and text[start - 1] in _NO_URL_AFTER else start
    return -1


def _take(text: str, begin: int, host_start: int, host_end: int, spans: list[tuple[int, int]]) -> int:
    """Add the URL around this host to `spans`, if it is one; return where to go on reading."""
    port = _PORT.match(text, host_end)
    end = port.end() if port else host_end
    valid = True
    # t.co links are made by machines: the slug is letters and digits, whatever people typed after it.
    if begin < host_start and text[host_start:end].lower() == "t.co" and (slug := _TCO_SLUG.match(text, end)):
        end = slug.end()
        valid = len(slug[1]) <= MAX_TCO_SLUG_LENGTH
    elif path := _PATH.match(text, end):
        end += len(path[0].rstrip(_PATH_LOOSE_ENDS))
    if query := _QUERY.match(text, end):
        end += len(query[0].rstrip(_QUERY_LOOSE_ENDS))
    if valid and end - begin <= MAX_URL_LENGTH:
        spans.append((begin, end))
    return end
