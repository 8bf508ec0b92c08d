"""A user to try a fresh cluster with."""

from __future__ import annotations

import grpc

from chirp.user import v1 as userpb
from services.cluster.program import ClusterError
from services.cluster.state import DemoUser

USERNAME = "demo"
TIMEOUT = 5.0


async def ensure(user_address: str) -> DemoUser:
    """The user "demo" of the cluster, made if there is none."""
    async with grpc.aio.insecure_channel(user_address) as channel:
        stub = userpb.UserServiceStub(channel)
        try:
            return _demo(await _find_or_create(stub))
        except grpc.aio.AioRpcError as problem:
            raise ClusterError(f"the demo user cannot be made ({problem.details()}): see `chirp logs user`") from None


async def _find_or_create(stub: userpb.UserServiceAsyncStub) -> userpb.User:
    try:
        return (await stub.LookupUser(userpb.LookupUserRequest(username=USERNAME), timeout=TIMEOUT)).user
    except grpc.aio.AioRpcError as problem:
        if problem.code() is not grpc.StatusCode.NOT_FOUND:
            raise
    request = userpb.CreateUserRequest(username=USERNAME, display_name="Demo", bio="Made by `chirp up`")
    return (await stub.CreateUser(request, timeout=TIMEOUT)).user


def _demo(user: userpb.User) -> DemoUser:
    return DemoUser(user.user_id, user.username)
