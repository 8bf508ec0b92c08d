"""The RPCs of TimelineService: who asks → which page → read → present."""

from google.protobuf.duration_pb2 import Duration

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from services.runtime import paging
from services.runtime.call import Call
from services.runtime.paging import PageTokens
from services.runtime.rediscluster import RedisCluster
from services.timeline import buckets, positions
from services.timeline.explain import Explainer
from services.timeline.facts import ReaderFacts
from services.timeline.home import Home
from services.timeline.positions import Positions
from services.timeline.profile import Profile
from services.timeline.progress import Progress, ProgressStore
from services.timeline.rebuild import Rebuilder, read_whole
from services.timeline.truth import Truth

STATES = {
    "pending": timelinepb.FANOUT_STATE_PENDING,
    "running": timelinepb.FANOUT_STATE_RUNNING,
    "done": timelinepb.FANOUT_STATE_DONE,
    "pull": timelinepb.FANOUT_STATE_PULL,
    "invalidated": timelinepb.FANOUT_STATE_INVALIDATED,
}


class TimelineService:
    """Serves timelines from ids kept in Redis; tweets, users and follows stay with their owners."""

    def __init__(
        self, home: Home, profile: Profile, explainer: Explainer, progress: ProgressStore, truth: Truth,
        facts: ReaderFacts, rebuilder: Rebuilder, redis: RedisCluster, tokens: PageTokens,
    ) -> None:  # fmt: skip
        self._home, self._profile, self._explainer, self._progress = home, profile, explainer, progress
        self._truth, self._facts, self._rebuilder, self._redis = truth, facts, rebuilder, redis
        self._home_positions, self._profile_tokens = Positions(tokens, "home"), tokens

    async def get_home_timeline(self, request: timelinepb.GetHomeTimelineRequest, call: Call) -> bytes:
        """A page of the caller's home; the reply is joined from bytes encoded before."""
        viewer_id = call.viewer()
        size = paging.page_size(request.page_size)
        positions.refuse_both(request.page_token, request.after)
        if request.after:
            seen = self._home_positions.decode_newer(viewer_id, request.after)
            page = await self._home.newer(call, viewer_id, seen, size)
            older = ""
        else:
            before = self._home_positions.decode_older(viewer_id, request.page_token)
            page = await self._home.older(call, viewer_id, before, size)
            older = self._home_positions.encode_older(viewer_id, page.resume)
        rest = timelinepb.GetHomeTimelineResponse(
            next_page_token=older, newer_token=self._home_positions.encode_newer(viewer_id, page.seen),
            gap=page.gap, degraded=page.degraded)  # fmt: skip
        return b"".join([*(item.framed for item in page.items), rest.SerializeToString()])

    async def get_user_timeline(self, request: timelinepb.GetUserTimelineRequest, call: Call) -> bytes:
        """A page of one user's tweets. Tokens are the list's, whoever reads it."""
        size = paging.page_size(request.page_size)
        positions.refuse_both(request.page_token, request.after)
        place = Positions(self._profile_tokens, f"profile.{request.user_id}")
        if request.after:
            page = await self._profile.newer(call, request.user_id, place.decode_newer(0, request.after), size)
            older = ""
        else:
            page = await self._profile.older(call, request.user_id, place.decode_older(0, request.page_token), size)
            older = place.encode_older(0, page.resume)
        rest = timelinepb.GetUserTimelineResponse(
            next_page_token=older, newer_token=place.encode_newer(0, page.seen), gap=page.gap)  # fmt: skip
        return b"".join([*(item.framed for item in page.items), rest.SerializeToString()])

    async def explain_timeline_entry(
        self, request: timelinepb.ExplainTimelineEntryRequest, call: Call
    ) -> timelinepb.ExplainTimelineEntryResponse:
        """Why a tweet is, or is not, in the caller's home."""
        answer = await self._explainer.explain(call, call.viewer(), request.tweet_id)
        return timelinepb.ExplainTimelineEntryResponse(
            shown=answer.shown, verdict=answer.verdict, message=answer.message)  # fmt: skip

    async def get_fanout_status(self, request: timelinepb.GetFanoutStatusRequest, call: Call) -> timelinepb.GetFanoutStatusResponse:
        """How far the caller's tweet has been delivered."""
        await self._must_be_author(call, request.tweet_id)
        return present(await self._progress.of_tweet(request.tweet_id))

    async def _must_be_author(self, call: Call, tweet_id: int) -> None:
        (record,) = await self._truth.tweets(call, [tweet_id])
        if record.status == tweetpb.TWEET_STATUS_DELETED:
            raise errors.NotFound(errorspb.ERROR_REASON_TWEET_DELETED, f"tweet {tweet_id} was deleted", tweet_id=str(tweet_id))
        if record.status != tweetpb.TWEET_STATUS_FOUND:
            raise errors.NotFound(errorspb.ERROR_REASON_TWEET_NOT_FOUND, f"there is no tweet {tweet_id}", tweet_id=str(tweet_id))
        if record.tweet.author_id != call.viewer():
            raise errors.PermissionDenied(
                errorspb.ERROR_REASON_NOT_THE_AUTHOR, "only its author sees how far a tweet has been delivered")  # fmt: skip

    async def rebuild_timeline(self, request: timelinepb.RebuildTimelineRequest, call: Call) -> timelinepb.RebuildTimelineResponse:
        """Throws a home away and builds it anew."""
        facts = await self._facts.load(call, request.user_id)
        found = await read_whole(self._redis, request.user_id)
        built = await self._rebuilder.window(call, facts, found)
        return timelinepb.RebuildTimelineResponse(entry_count=len(set(built.ids)))


def present(progress: Progress) -> timelinepb.GetFanoutStatusResponse:
    """Numbers as the lower bounds of their buckets."""
    reply = timelinepb.GetFanoutStatusResponse(
        state=STATES[progress.state], target_count=buckets.lower_bound(progress.targets),
        delivered_count=buckets.lower_bound(progress.delivered), inactive_count=buckets.lower_bound(progress.inactive))  # fmt: skip
    if progress.lag_ms is not None:
        reply.lag.CopyFrom(Duration(seconds=progress.lag_ms // 1000, nanos=progress.lag_ms % 1000 * 1_000_000))
    return reply
