"""How the parts of the tweet service are put together."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from chirp.user import v1 as userpb
from services.runtime.clock import Clock
from services.runtime.fences import Fences
from services.runtime.logs import Log
from services.runtime.metrics import Metrics
from services.runtime.notices import Notices
from services.runtime.outbox import Bell
from services.runtime.rediscluster import RedisCluster
from services.tweet import texts
from services.tweet.authors import Authors
from services.tweet.events import Counts
from services.tweet.reader import Reader
from services.tweet.remover import Remover
from services.tweet.service import TweetService
from services.tweet.store import Pools, TweetStore
from services.tweet.writer import Peers, Writer


@dataclass(frozen=True, slots=True)
class Backends:
    """What the service stands on."""

    pools: Pools
    redis: RedisCluster
    bell: Bell
    peers: Peers
    users: "userpb.UserServiceAsyncStub"


@asynccontextmanager
async def service(
    backends: Backends, max_weighted_length: int, metrics: Metrics, log: Log, clock: Clock
) -> AsyncGenerator[TweetService]:
    """The service; leaving waits until every write that was accepted is answered."""
    store, counts, fences = TweetStore(backends.pools), Counts(metrics), Fences(backends.redis, clock)
    writer = Writer(store, backends.peers, fences, backends.bell, counts, metrics, log, clock)
    remover = Remover(store, fences, Notices(backends.redis, clock), backends.bell, counts, metrics, clock)
    authors = Authors(backends.users, metrics, clock)
    limits = texts.limits(max_weighted_length)
    try:
        yield TweetService(store, Reader(store, metrics), writer, remover, authors, limits, log)
    finally:
        await writer.close()
        await remover.close()
