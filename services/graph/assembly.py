"""How the parts of the graph service are put together, for the process and for tests."""

from typing import NamedTuple

from chirp.user import v1 as userpb
from services.graph.delivery import Delivery
from services.graph.edges import Edges
from services.graph.events import GraphCounters
from services.graph.limits import FOLLOW_LIMIT, PULL_THRESHOLD
from services.graph.people import People
from services.graph.service import GraphService
from services.graph.store import GraphStore
from services.runtime.clock import Clock
from services.runtime.fences import Fences
from services.runtime.metrics import Metrics
from services.runtime.notices import Notices
from services.runtime.outbox import Bell
from services.runtime.paging import PageTokens
from services.runtime.postgres import Database
from services.runtime.rediscluster import RedisCluster
from services.runtime.settings import Settings


class Backends(NamedTuple):
    """What the service stands on."""

    database: Database
    redis: RedisCluster
    bell: Bell
    settings: Settings
    """Knows services.graph.limits."""
    users: "userpb.UserServiceAsyncStub"
    tokens: PageTokens


def service(backends: Backends, metrics: Metrics, clock: Clock) -> GraphService:
    """The service and its parts."""
    counters, settings = GraphCounters(metrics), backends.settings
    store = GraphStore(backends.database, metrics)
    edges = Edges(
        backends.database,
        Fences(backends.redis, clock),
        clock,
        lambda: settings.get(FOLLOW_LIMIT),
        counters,
        metrics,
    )
    delivery = Delivery(store, Notices(backends.redis, clock), clock, lambda: settings.get(PULL_THRESHOLD), counters)
    people = People(backends.users, clock, metrics)
    return GraphService(store, edges, delivery, people, backends.tokens, backends.bell, clock)
