"""The home window: a Redis list of tweet ids, newest push at the head, a sentinel always at the tail.

The list is a cache of what the truth holds above its floor. A list costs an eighth of a sorted set's memory and a fifth of
its time; LPUSHX does nothing for readers who have no window. Entries may repeat and may lie out of order by LATENESS: the
reader orders and de-duplicates. A Redis list cannot be empty, so the sentinel also keeps an empty home alive:

    #<state>:<nonce>:<follow_revision>:<built_id>:<floor_id>:<started_ms>       state: b building, r ready

While a window is being built it holds only the building sentinel and what was pushed meanwhile; the builder appends what it
read from the truth if its nonce is still there. Whatever was committed before that read is in it, whatever is committed
after it is pushed onto the list: nothing falls between.
"""

import hashlib
from dataclasses import dataclass
from typing import cast

from services.runtime.redisroutes import Answer

CAPACITY = 800
"""Entries kept: Twitter's figure; 8.4 KB a home."""
SLACK = 100
"""Entries above the capacity that are tolerated before a list is trimmed: one trim for a hundred pushes."""
LATENESS_MS = 10_000
"""How far behind its id's time an entry may be pushed; the worker throws homes away rather than push later than this."""
LIFE_MS = 30 * 24 * 3_600_000
"""A home nobody reads for this long disappears; reading renews it."""
REBUILD_AFTER_MS = 7 * 24 * 3_600_000
"""A window older than this is built anew, so that pulled tweets need not be merged from further back (graph names the
authors who had some within eight days)."""
BUILD_PATIENCE_MS = 5_000
"""A building sentinel older than this belongs to a builder that died."""


def key(user_id: int) -> bytes:
    """The window's key; the tag puts it on one node with the reader's fences."""
    return b"timeline:home:{%d}" % user_id


@dataclass(frozen=True, slots=True)
class Sentinel:
    """What is known of a window as a whole."""

    ready: bool
    nonce: int
    follow_revision: int
    """The reader's follow revision at which it was built: at a higher one, somebody's tweets are missing."""
    built_id: int
    """Tweets with ids up to here were read from the truth, pulled ones among them."""
    floor_id: int
    """Ids above it are in the window; 0 when it reaches the very first tweet."""
    started_ms: int
    """When its building began, unix time."""

    def encode(self) -> bytes:
        """As it stands in the list."""
        state = b"r" if self.ready else b"b"
        return b"#%b:%d:%d:%d:%d:%d" % (
            state, self.nonce, self.follow_revision, self.built_id, self.floor_id, self.started_ms)  # fmt: skip

    @staticmethod
    def decode(raw: Answer) -> "Sentinel | None":
        """None for a missing list, and for a tail that is no sentinel of this version: such a list is built anew."""
        if not isinstance(raw, bytes) or raw[:1] != b"#":
            return None
        try:
            state, *numbers = raw[1:].split(b":")
            nonce, revision, built, floor, started = map(int, numbers)
        except ValueError:
            return None
        return Sentinel(state == b"r", nonce, revision, built, floor, started)

    def serves(self, follow_revision: int, now_ms: int) -> bool:
        """Whether a reader at this follow revision can use the window."""
        return self.ready and self.follow_revision >= follow_revision and now_ms - self.started_ms < REBUILD_AFTER_MS

    def is_being_built(self, now_ms: int) -> bool:
        """Whether another builder is at work and alive."""
        return not self.ready and now_ms - self.started_ms < BUILD_PATIENCE_MS


@dataclass(frozen=True, slots=True)
class Window:
    """The newest part of a window, or all of it."""

    ids: tuple[int, ...]
    """As they lie in the list: newest push first, possibly repeated."""
    sentinel: Sentinel
    whole: bool
    """Whether these are all entries."""


def parse(entries: Answer, tail: Answer, asked: int) -> Window | None:
    """A window from the replies to LRANGE, which asked for `asked` elements, and LINDEX; None for what is no window.

    Between the two commands the list may have become another one. So where all of it was read, the sentinel among the
    entries counts; and a list that ends without one was just being made, or is none of ours.
    """
    if not isinstance(entries, list) or not entries:
        return None
    elements = cast("list[bytes]", entries)
    whole = elements[-1].startswith(b"#")
    sentinel = Sentinel.decode(elements.pop() if whole else tail)
    if sentinel is None or not (whole or len(elements) == asked):
        return None
    try:
        return Window(tuple(map(int, elements)), sentinel, whole)
    except ValueError:
        return None


BEGIN = """
local tail = redis.call('LINDEX', KEYS[1], -1)
if tail then
  local state, nonce, revision, started = string.match(tail, '^#(%a):(%d+):(%d+):%d+:%d+:(%d+)$')
  if state == 'b' and tonumber(ARGV[2]) - tonumber(started) < tonumber(ARGV[4]) then return tail end
  if state == 'r' and nonce ~= ARGV[3] and tonumber(revision) >= tonumber(ARGV[5]) then return tail end
end
redis.call('DEL', KEYS[1])
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return false
"""
"""KEYS: window. ARGV: building sentinel, now_ms, nonce of the window found wanting, patience ms, follow revision, life ms.
Starts a build and returns nil; or returns the tail that another builder left, busy or done."""

FINISH = """
local tail = redis.call('LINDEX', KEYS[1], -1)
if tail ~= ARGV[1] then return false end
local pushed = redis.call('LRANGE', KEYS[1], 0, -2)
redis.call('RPOP', KEYS[1])
for first = 4, #ARGV, 500 do
  redis.call('RPUSH', KEYS[1], unpack(ARGV, first, math.min(first + 499, #ARGV)))
end
redis.call('RPUSH', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return pushed
"""
"""KEYS: window. ARGV: building sentinel, ready sentinel, life ms, entries newest first. Returns what was pushed during the
build; nil, and nothing is done, when another build took over or the window was thrown away."""

TRIM = """
local length = redis.call('LLEN', KEYS[1])
local keep = tonumber(ARGV[1])
if length <= keep + 1 then return 0 end
local tail = redis.call('LINDEX', KEYS[1], -1)
local head, floor, started = string.match(tail, '^(#r:%d+:%d+:%d+):(%d+):(%d+)$')
if not head then return 0 end
for _, id in ipairs(redis.call('LRANGE', KEYS[1], keep, -2)) do
  if #id > #floor or (#id == #floor and id > floor) then floor = id end
end
redis.call('LTRIM', KEYS[1], 0, keep - 1)
redis.call('RPUSH', KEYS[1], head .. ':' .. floor .. ':' .. started)
return length - keep - 1
"""
"""KEYS: window. ARGV: entries to keep. Cuts the oldest pushes and raises the floor to the highest id cut; ids are compared
as strings because Lua's numbers hold 53 bits. Returns how many were cut."""
TRIM_SHA = hashlib.sha1(TRIM.encode(), usedforsecurity=False).hexdigest()
"""By which a node that has run it knows it."""
