"""The id, user and graph services in one process on real backends, and stubs that call a service object directly."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

from google.protobuf.message import Message

from chirp.graph import v1 as graphpb
from chirp.id import v1 as idpb
from chirp.user import v1 as userpb
from services.graph import assembly
from services.graph.limits import FOLLOW_LIMIT, PULL_THRESHOLD
from services.graph.service import GraphService
from services.id.generator import Generator
from services.id.lease import Lease
from services.id.service import IdService
from services.id.store import LeaseStore
from services.runtime import config, handlers, jetstream, logs, postgres
from services.runtime.call import Call
from services.runtime.clock import Clock, SystemClock
from services.runtime.fences import Fences
from services.runtime.metrics import Metrics
from services.runtime.outbox import Bell
from services.runtime.paging import PageTokens
from services.runtime.postgres import Database
from services.runtime.rediscluster import RedisCluster
from services.runtime.server import Server
from services.runtime.settings import Settings
from services.user.events import UserEvents
from services.user.service import UserService
from services.user.store import UserStore

NAMES = count(1)


class InProcess:
    """A stub whose methods call a service object: a contract's client without a socket."""

    def __init__(self, implementation: object, service: str) -> None:
        self.calls: list[tuple[str, Message]] = []
        """What was asked of it."""
        for handler in handlers.table(implementation, service).values():
            setattr(self, handler.method.name, self._unary(handler))

    def _unary(self, handler: handlers.Handler) -> Callable[..., Awaitable[Message]]:
        async def call(request: Message, *, timeout: float, metadata: Any = None) -> Message:
            assert timeout > 0
            self.calls.append((handler.method.name, request))
            viewer = int(dict(metadata or ()).get("x-user-id", "0"))
            reply = await handler.invoke(request, Call.background(timeout=timeout, viewer_id=viewer))
            return handler.method.response_class.FromString(reply) if isinstance(reply, bytes) else reply

        return call


def as_(viewer_id: int, timeout: float = 10.0) -> Call:
    """A call by that user; 0 for nobody."""
    return Call.background(timeout=timeout, viewer_id=viewer_id)


@dataclass(slots=True)
class Social:
    """Services and what they stand on."""

    database: Database
    redis: RedisCluster
    settings: Settings
    metrics: Metrics
    ids: IdService
    users: UserService
    graph: GraphService
    asked_of_users: InProcess

    async def user(self, username: str = "") -> int:
        """Registers somebody."""
        request = userpb.CreateUserRequest(username=username or f"user_{next(NAMES)}")
        return userpb.CreateUserResponse.FromString(await self.users.create_user(request, as_(0))).user.user_id

    async def people(self, number: int) -> list[int]:
        """Registers many."""
        names = [f"many_{next(NAMES)}" for _ in range(number)]
        request = userpb.BatchCreateUsersRequest(users=[userpb.CreateUserRequest(username=name) for name in names])
        return [item.user_id for item in (await self.users.batch_create_users(request, as_(0))).items]

    async def follow(self, follower_id: int, followee_id: int, request_id: str = "") -> graphpb.FollowResponse:
        """One follow."""
        request = graphpb.FollowRequest(user_id=followee_id, request_id=request_id)
        return graphpb.FollowResponse.FromString(await self.graph.follow(request, as_(follower_id)))

    async def unfollow(self, follower_id: int, followee_id: int, request_id: str = "") -> graphpb.UnfollowResponse:
        """The end of one."""
        request = graphpb.UnfollowRequest(user_id=followee_id, request_id=request_id)
        return graphpb.UnfollowResponse.FromString(await self.graph.unfollow(request, as_(follower_id)))

    async def load(self, *edges: tuple[int, int]) -> int:
        """Many follows; how many were made."""
        request = graphpb.BatchFollowRequest(edges=[graphpb.FollowEdge(follower_id=a, followee_id=b) for a, b in edges])
        return (await self.graph.batch_follow(request, as_(0))).created_count


@asynccontextmanager
async def social(dsn: str, redis_nodes: str, nats_url: str, clock: Clock | None = None) -> AsyncIterator[Social]:
    """All three on a database with migrations applied."""
    clock = clock or SystemClock()
    metrics = Metrics("test")
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        database = await enter(postgres.connect(dsn, "test", metrics))
        redis = await enter(RedisCluster.open(redis_nodes, metrics))
        nats = await enter(jetstream.connect([nats_url], "test", metrics))
        settings = await enter(Settings(database, nats, (PULL_THRESHOLD, FOLLOW_LIMIT), metrics))
        generator = Generator(SystemClock())
        lease = Lease(LeaseStore(database), generator, SystemClock(), f"test {next(NAMES)}", logs.silent())
        assert await lease.refresh()
        stack.push_async_callback(lease.release)
        ids = IdService(generator, metrics)
        events = UserEvents(metrics, clock)
        id_stub = cast("idpb.IdServiceAsyncStub", InProcess(ids, "chirp.id.v1.IdService"))
        store = UserStore(database, events, metrics)
        users = UserService(store, id_stub, Fences(redis, clock), Bell(nats, "user"), events, clock)
        asked_of_users = InProcess(users, "chirp.user.v1.UserService")
        backends = assembly.Backends(
            database=database,
            redis=redis,
            bell=Bell(nats, "graph"),
            settings=settings,
            users=cast("userpb.UserServiceAsyncStub", asked_of_users),
            tokens=PageTokens(b"a key for tests only"),
        )
        graph = assembly.service(backends, metrics, clock)
        yield Social(database, redis, settings, metrics, ids, users, graph, asked_of_users)


@asynccontextmanager
async def served(implementation: object, service: str, process: str) -> AsyncIterator[str]:
    """host:port of a real gRPC server for the object; X-User-Id is believed."""
    variables = {"CHIRP_GRPC_PORT": "0", "CHIRP_METRICS_PORT": "0", "CHIRP_AUTH": "header", "CHIRP_DRAIN_LINGER": "0"}
    server = Server(config.read(config.Environ(variables), process), Metrics(process), logs.silent())
    server.add(implementation, service)
    async with server:
        yield f"127.0.0.1:{server.port}"
