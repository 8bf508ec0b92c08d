"""Audits a cluster while it runs: windows in Redis and answers of the service against the truth in Postgres.

It triggers no rebuild: the service is asked only for homes whose window is there and current, unless cold homes are wanted.
"""

import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import psycopg

from chirp.graph import v1 as graphpb
from chirp.timeline import v1 as timelinepb
from loadtest.compare import Difference, RawWindow, compare_answer, compare_window, read_window, repeated
from loadtest.target import Target
from loadtest.truth import Expected, Truth
from services.runtime import ids
from services.runtime.metrics import Metrics
from services.runtime.rediscluster import RedisCluster
from services.runtime.resp import pack

GRACE_MS = 10_000
"""Tweets younger than this may be under way; they are not missed, nor held to be too many."""
LOOKS = 3
"""A difference must still be there when looked at again: the cluster may be written to meanwhile."""
PAGE = 200
CALL_SECONDS = 5.0
AT_A_TIME = 500


@dataclass(slots=True)
class Findings:
    """What an audit saw."""

    users: int = 0
    windows: int = 0
    """Homes that were really there in Redis and current."""
    looked_at: int = 0
    """Users whose window was looked for."""
    entries: int = 0
    """Entries compared, in windows and answers."""
    repeated_in_windows: int = 0
    """Entries that lie more than once in a window: no difference unless the audit is strict."""
    repaired: int = 0
    differences: list[Difference] = field(default_factory=list[Difference])


class Auditor:
    """Compares homes."""

    def __init__(
        self, truth: Truth, redis: RedisCluster, timeline: "timelinepb.TimelineServiceAsyncStub", depth: int, grace_ms: int
    ) -> None:
        """`depth`: items of each home to compare; 0 for all."""
        self._truth, self._redis, self._timeline = truth, redis, timeline
        self._depth, self._grace_ms = depth, grace_ms

    async def draw(self, count: int, seed: int, *, cold: bool) -> tuple[list[int], int]:
        """Random users, of those who have a window unless cold ones are wanted too; and how many were looked at for it."""
        everybody = await self._truth.user_ids()
        random.Random(seed).shuffle(everybody)
        if cold:
            return everybody[:count], min(count, len(everybody))
        drawn: list[int] = []
        looked_at = 0
        while len(drawn) < count and looked_at < len(everybody):
            batch = everybody[looked_at : looked_at + AT_A_TIME]
            commands = [(_key(user_id), pack("EXISTS", _key(user_id))) for user_id in batch]
            replies = await self._redis.scatter(commands)
            for user_id, reply in zip(batch, replies, strict=True):
                looked_at += 1
                if reply == 1:
                    drawn.append(user_id)
                if len(drawn) == count:
                    break
        return drawn, looked_at

    async def audit(self, user_id: int, findings: Findings, *, cold: bool, strict: bool) -> list[Difference]:
        """The differences of one home that are still there at the last look."""
        found: list[Difference] = []
        for look in range(LOOKS):
            found = await self._compare(user_id, findings if look == 0 else Findings(), cold=cold, strict=strict)
            if not found:
                break
        return found

    async def repair(self, user_id: int) -> None:
        """Has the home built anew."""
        await self._timeline.RebuildTimeline(timelinepb.RebuildTimelineRequest(user_id=user_id), timeout=CALL_SECONDS)

    async def _compare(self, user_id: int, findings: Findings, *, cold: bool, strict: bool) -> list[Difference]:
        settled = ids.first_at(time.time_ns() // 1_000_000 - self._grace_ms)
        window = await self._window(user_id)
        current = window is not None and window.follow_revision >= await self._truth.follow_revision(user_id)
        if not current and not cold:
            return []
        answer, whole = await self._walk(user_id)
        truth = await self._truth.home(user_id)
        differences = compare_answer(user_id, truth, answer, settled, whole=whole)
        if window is not None and current:
            findings.windows += 1
            findings.entries += len(window.entries)
            findings.repeated_in_windows += len(repeated(window.entries))
            known = await self._known(user_id, truth, window)
            differences += compare_window(user_id, truth, window, settled, known, strict=strict)
        findings.users += 1
        findings.entries += len(answer)
        return differences

    async def _window(self, user_id: int) -> RawWindow | None:
        name = _key(user_id)
        (elements,) = await self._redis.run(name, pack("LRANGE", name, 0, -1))
        return read_window([each for each in elements if isinstance(each, bytes)]) if isinstance(elements, list) else None

    async def _known(self, user_id: int, truth: Sequence[Expected], window: RawWindow) -> set[int]:
        """Entries outside the truth that are tweets of authors whom the reader follows, or did until some days ago."""
        outside = set(window.entries) - {tweet.tweet_id for tweet in truth}
        if not outside:
            return set()
        authors = await self._truth.authors(list(outside))
        followed = await self._truth.followed(user_id, list(authors.values()))
        events = await self._truth.unfollowed_payloads(user_id)
        left = {graphpb.Unfollowed.FromString(payload).followee_id for payload in events}
        return {tweet_id for tweet_id, author_id in authors.items() if author_id in {user_id, *followed, *left}}

    async def _walk(self, user_id: int) -> tuple[list[int], bool]:
        """The home as served, page by page; and whether the walk went to its end."""
        answer: list[int] = []
        token = ""
        while True:
            request = timelinepb.GetHomeTimelineRequest(page_size=PAGE, page_token=token)
            reply = await self._timeline.GetHomeTimeline(request, timeout=CALL_SECONDS, metadata=(("x-user-id", str(user_id)),))
            answer.extend(item.tweet.tweet_id for item in reply.items)
            token = reply.next_page_token
            if not token:
                return answer, True
            if self._depth and len(answer) >= self._depth:
                return answer, False


def _key(user_id: int) -> str:
    return f"timeline:home:{{{user_id}}}"


async def run(
    auditor: Auditor, users: Sequence[int], looked_at: int, *, cold: bool, repair: bool, strict: bool = False
) -> Findings:
    """Audits users one after the other; a repaired home is compared once more. `strict`: see `compare_window`."""
    findings = Findings(looked_at=looked_at)
    for user_id in users:
        found = await auditor.audit(user_id, findings, cold=cold, strict=strict)
        if found and repair:
            await auditor.repair(user_id)
            findings.repaired += 1
            found = await auditor.audit(user_id, Findings(), cold=cold, strict=strict)
        findings.differences += found
    return findings


@asynccontextmanager
async def open_auditor(where: Target, depth: int, grace_ms: int = GRACE_MS) -> AsyncGenerator[Auditor]:
    """An auditor of a running cluster; where everything is known to be delivered, `grace_ms` is 0."""
    async with AsyncExitStack() as stack:
        metrics = Metrics("audit")
        connection = await psycopg.AsyncConnection.connect(where.postgres, autocommit=True)
        stack.push_async_callback(connection.close)
        redis = await stack.enter_async_context(RedisCluster.open(where.redis, metrics))
        channel = await stack.enter_async_context(where.connect("timeline", "chirp.timeline.v1.TimelineService", metrics))
        yield Auditor(Truth(connection), redis, timelinepb.TimelineServiceStub(channel), depth, grace_ms)
