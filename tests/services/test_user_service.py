"""The user service on real backends, as an object and through gRPC."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.user import v1 as userpb
from services.runtime import channel
from services.runtime.fences import PENDING, fetch, verdict
from services.runtime.metrics import Metrics
from tests.services.social import NAMES, Social, as_, served, social

SERVICE = "chirp.user.v1.UserService"


@pytest.fixture(scope="module")
async def world(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[Social]:
    async with social(database, redis_nodes, nats_url) as made:
        yield made


def name() -> str:
    return f"Name_{next(NAMES)}"


async def create(world: Social, viewer_id: int = 0, **fields: str) -> userpb.User:
    request = userpb.CreateUserRequest(**{"username": name(), **fields})
    reply = await world.users.create_user(request, as_(viewer_id))
    return userpb.CreateUserResponse.FromString(reply).user


async def get(world: Social, user_id: int) -> userpb.User:
    return (await world.users.get_user(userpb.GetUserRequest(user_id=user_id), as_(0))).user


async def update(world: Social, user_id: int, profile: userpb.Profile, *paths: str, request_id: str = "") -> userpb.User:
    mask = FieldMask(paths=paths)
    request = userpb.UpdateProfileRequest(profile=profile, update_mask=mask, request_id=request_id)
    reply = await world.users.update_profile(request, as_(user_id))
    return userpb.UpdateProfileResponse.FromString(reply).user


async def events(world: Social, user_id: int) -> list[str]:
    rows = await world.database.query(
        """select subject from "user".outbox where subject like %s order by event_id""", (f"user.%.{user_id}",)
    )
    return [row[0].split(".")[1] for row in rows]


async def test_who_registers_is_found_by_id_and_by_username_in_any_case(world: Social) -> None:
    made = await create(world, display_name="Ann", bio="hello", picture_url="https://example.org/a.png")

    assert await get(world, made.user_id) == made
    for spelling in (made.username, made.username.upper(), made.username.lower()):
        found = await world.users.lookup_user(userpb.LookupUserRequest(username=spelling), as_(0))
        assert found.user == made
    mine = await world.users.get_user(userpb.GetUserRequest(), as_(made.user_id))
    assert mine.user == made
    assert await events(world, made.user_id) == ["created"]


async def test_the_username_stands_in_for_a_missing_display_name(world: Social) -> None:
    made = await create(world)

    assert made.display_name == made.username


async def test_a_username_is_taken_whatever_the_case_of_its_letters(world: Social) -> None:
    taken = (await create(world)).username

    with pytest.raises(errors.AlreadyExists) as refusal:
        await create(world, username=taken.swapcase())

    assert refusal.value.reason == errorspb.ERROR_REASON_USERNAME_TAKEN


async def test_of_many_who_want_a_username_at_once_one_gets_it(world: Social) -> None:
    wanted = name()

    outcomes = await asyncio.gather(*(create(world, username=wanted) for _ in range(8)), return_exceptions=True)

    assert sum(isinstance(each, userpb.User) for each in outcomes) == 1
    assert sum(isinstance(each, errors.AlreadyExists) for each in outcomes) == 7


async def test_a_registration_repeated_under_its_request_id_is_one(world: Social) -> None:
    wanted, key = name(), name()

    made = await asyncio.gather(*(create(world, username=wanted, request_id=key) for _ in range(4)))

    assert len({each.user_id for each in made}) == 1
    assert await events(world, made[0].user_id) == ["created"]
    with pytest.raises(errors.AlreadyExists) as reused:
        await create(world, request_id=key)
    assert reused.value.reason == errorspb.ERROR_REASON_IDEMPOTENCY_KEY_REUSED
    assert (await create(world, viewer_id=made[0].user_id, request_id=key)).user_id != made[0].user_id


async def test_a_refused_registration_burns_no_key(world: Social) -> None:
    taken, key = (await create(world)).username, name()
    with pytest.raises(errors.AlreadyExists):
        await create(world, username=taken, request_id=key)

    assert (await create(world, request_id=key)).user_id


async def test_nobody_is_not_found(world: Social) -> None:
    with pytest.raises(errors.NotFound) as missing:
        await get(world, 1)
    assert missing.value.reason == errorspb.ERROR_REASON_USER_NOT_FOUND
    with pytest.raises(errors.NotFound):
        await world.users.lookup_user(userpb.LookupUserRequest(username="nobody_at_all"), as_(0))
    with pytest.raises(errors.Unauthenticated):
        await world.users.get_user(userpb.GetUserRequest(), as_(0))
    with pytest.raises(errors.NotFound):
        await update(world, 1, userpb.Profile(bio="x"), "bio")


async def test_a_batch_keeps_order_repeats_and_gaps(world: Social) -> None:
    a, b = await world.people(2)

    reply = await world.users.batch_get_users(userpb.BatchGetUsersRequest(user_ids=[b, 1, a, b]), as_(0))

    assert [item.user_id for item in reply.items] == [b, 1, a, b]
    assert [item.HasField("user") for item in reply.items] == [True, False, True, True]
    assert reply.items[0].user.user_id == b


async def test_reads_that_wait_together_are_few_selects(world: Social) -> None:
    everybody = await world.people(64)
    before = _selects(world)

    found = await asyncio.gather(*(get(world, user_id) for user_id in everybody))

    assert [user.user_id for user in found] == everybody
    assert _selects(world) - before <= 3


async def test_a_mask_changes_what_it_names_and_nothing_else(world: Social) -> None:
    user_id = (await create(world, display_name="Ann", bio="old")).user_id

    changed = await update(world, user_id, userpb.Profile(display_name="Bea", bio="new"), "bio")

    assert (changed.display_name, changed.bio) == ("Ann", "new")
    assert await get(world, user_id) == changed
    cleared = await update(world, user_id, userpb.Profile(display_name="Bea"))
    assert (cleared.display_name, cleared.bio) == ("Bea", "")
    assert await events(world, user_id) == ["created", "updated", "updated"]


@pytest.mark.parametrize("path", ["username", "user_id", "profile.bio", ""])
async def test_a_mask_that_names_something_else_is_refused(world: Social, path: str) -> None:
    user_id = (await create(world)).user_id

    with pytest.raises(errors.InvalidArgument) as wrong:
        await update(world, user_id, userpb.Profile(bio="x"), "bio", path)

    assert wrong.value.violations[0].field == "update_mask"


async def test_a_change_repeated_under_its_request_id_is_made_once(world: Social) -> None:
    user_id = (await create(world)).user_id
    first = await update(world, user_id, userpb.Profile(bio="first"), "bio", request_id="key")
    await update(world, user_id, userpb.Profile(bio="second"), "bio")

    assert await update(world, user_id, userpb.Profile(bio="first"), "bio", request_id="key") == first
    assert (await get(world, user_id)).bio == "second"
    with pytest.raises(errors.AlreadyExists):
        await update(world, user_id, userpb.Profile(bio="third"), "bio", request_id="key")


async def test_whoever_keeps_a_copy_sees_the_fence_of_a_changed_profile(world: Social) -> None:
    user_id = (await create(world)).user_id
    key = f"user:fence:{{{user_id}}}"

    await update(world, user_id, userpb.Profile(bio="new"), "bio")

    (answer,) = await world.redis.run(key, fetch(key))
    assert verdict(answer) is PENDING


async def test_a_text_that_postgres_cannot_hold_is_refused_by_name(world: Social) -> None:
    texts = dict.fromkeys(("display_name", "bio", "picture_url"), "https://a\0b")
    account = userpb.CreateUserRequest(username="a\0b", request_id="\0", **texts)
    me = (("x-user-id", "1"),)
    async with (
        served(world.users, SERVICE, "user") as address,
        channel.connect([address], SERVICE, Metrics("client")) as connection,
    ):
        stub = userpb.UserServiceStub(connection)
        calls = [
            (stub.CreateUser(account, timeout=5), {"username", "request_id", *texts}),
            (
                stub.BatchCreateUsers(userpb.BatchCreateUsersRequest(users=[account]), timeout=5),
                {f"users[0].{field}" for field in ("username", "request_id", *texts)},
            ),
            (
                stub.UpdateProfile(
                    userpb.UpdateProfileRequest(profile=userpb.Profile(**texts), request_id="\0"), timeout=5, metadata=me
                ),
                {"request_id", *(f"profile.{field}" for field in texts)},
            ),
            (stub.LookupUser(userpb.LookupUserRequest(username="a\0b"), timeout=5), {"username"}),
        ]
        for call, named in calls:
            with pytest.raises(errors.InvalidArgument) as wrong:
                await call
            assert {each.field for each in wrong.value.violations} == named


async def test_a_loader_learns_who_has_a_username_that_is_taken(world: Social) -> None:
    there = await create(world)
    new = name()
    asked = [userpb.CreateUserRequest(username=each) for each in (there.username.lower(), new, new.upper())]

    reply = await world.users.batch_create_users(userpb.BatchCreateUsersRequest(users=asked), as_(0))

    assert [item.already_exists for item in reply.items] == [True, False, True]
    assert reply.items[0].user_id == there.user_id
    assert reply.items[1].user_id == reply.items[2].user_id
    assert (await get(world, reply.items[1].user_id)).username == new
    assert await events(world, reply.items[1].user_id) == ["created"]


async def test_through_grpc(world: Social) -> None:
    async with (
        served(world.users, SERVICE, "user") as address,
        channel.connect([address], SERVICE, Metrics("client")) as connection,
    ):
        stub = userpb.UserServiceStub(connection)
        reply = await stub.CreateUser(userpb.CreateUserRequest(username=name(), request_id="grpc"), timeout=5)
        me = (("x-user-id", str(reply.user.user_id)),)
        assert (await stub.GetUser(userpb.GetUserRequest(), timeout=5, metadata=me)).user == reply.user
        changed = await stub.UpdateProfile(userpb.UpdateProfileRequest(profile=userpb.Profile(bio="x")), timeout=5, metadata=me)
        assert changed.user.bio == "x"
        with pytest.raises(errors.Unauthenticated):
            await stub.UpdateProfile(userpb.UpdateProfileRequest(profile=userpb.Profile()), timeout=5)
        with pytest.raises(errors.InvalidArgument) as wrong:
            await stub.CreateUser(userpb.CreateUserRequest(username="no spaces", bio="x" * 161), timeout=5)
        assert {each.field for each in wrong.value.violations} == {"username", "bio"}
        with pytest.raises(errors.InvalidArgument):
            await stub.BatchGetUsers(userpb.BatchGetUsersRequest(user_ids=range(1, 1_002)), timeout=5)


def _selects(world: Social) -> float:
    name = "chirp_coalesce_batch_size_count"
    return world.metrics.registry.get_sample_value(name, {"name": "user.accounts"}) or 0
