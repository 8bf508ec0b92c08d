"""How the parts of the two timeline processes are put together."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from chirp.graph import v1 as graphpb
from chirp.tweet import v1 as tweetpb
from chirp.user import v1 as userpb
from services.runtime import channel
from services.runtime.clock import Clock
from services.runtime.config import Config
from services.runtime.fences import Fences
from services.runtime.metrics import Metrics
from services.runtime.notices import NoticeReader
from services.runtime.paging import PageTokens
from services.runtime.rediscluster import RedisCluster
from services.timeline.catalogue import Catalogue
from services.timeline.explain import Explainer
from services.timeline.facts import ReaderFacts
from services.timeline.home import Home
from services.timeline.look import Looker
from services.timeline.memory import Memory
from services.timeline.metrics import TimelineMetrics
from services.timeline.profile import Profile
from services.timeline.progress import ProgressStore
from services.timeline.rebuild import Rebuilder
from services.timeline.recents import Recents
from services.timeline.service import TimelineService
from services.timeline.truth import Truth


@asynccontextmanager
async def peers(config: Config, metrics: Metrics) -> AsyncGenerator[Truth]:
    """Channels to the owners of tweets, follows and users."""
    async with AsyncExitStack() as stack:

        async def open_channel(name: str, service: str) -> channel.Channel:
            return await stack.enter_async_context(channel.connect(config.peer(name), service, metrics))

        yield Truth(
            tweetpb.TweetServiceStub(await open_channel("tweet", "chirp.tweet.v1.TweetService")),
            graphpb.GraphServiceStub(await open_channel("graph", "chirp.graph.v1.GraphService")),
            userpb.UserServiceStub(await open_channel("user", "chirp.user.v1.UserService")),
        )


@dataclass(frozen=True, slots=True)
class Parts:
    """What reading timelines takes."""

    service: TimelineService
    memory: Memory


def assemble(
    redis: RedisCluster, truth: Truth, progress: ProgressStore, tokens: PageTokens, metrics: Metrics, clock: Clock
) -> Parts:
    """The service and what listens to changes, around one set of copies."""
    counters = TimelineMetrics(metrics)
    fences = Fences(redis, clock)
    catalogue = Catalogue(truth, clock, counters)
    facts, recents = ReaderFacts(truth, fences, clock), Recents(truth, fences, clock)
    memory = Memory(catalogue, facts, recents)
    rebuilder = Rebuilder(redis, truth, clock, counters)
    looker = Looker(redis, NoticeReader(redis, memory, clock), clock)
    home = Home(looker, truth, facts, recents, catalogue, rebuilder, clock, counters)
    explainer = Explainer(redis, truth, facts, clock)
    profile = Profile(truth, catalogue)
    service = TimelineService(home, profile, explainer, progress, truth, facts, rebuilder, redis, tokens)
    return Parts(service, memory)
