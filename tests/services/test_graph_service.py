"""The graph service on real backends, as an object and through gRPC."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.graph import v1 as graphpb
from chirp.user import v1 as userpb
from services.graph import followerlists
from services.graph.limits import FOLLOW_LIMIT, PULL_THRESHOLD
from services.graph.store import Standing
from services.runtime import channel
from services.runtime.clock import ManualClock
from services.runtime.fences import PENDING, fetch, verdict
from services.runtime.metrics import Metrics
from services.runtime.notices import CELLS
from services.runtime.resp import pack
from tests.services.social import Social, as_, served, social

SERVICE = "chirp.graph.v1.GraphService"
DAY = 86_400.0
CLOCK = ManualClock(time.time_ns() // 1_000_000, time.monotonic())


@pytest.fixture(scope="module")
async def world(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[Social]:
    async with social(database, redis_nodes, nats_url, CLOCK) as made:
        yield made


async def following(world: Social, user_id: int, size: int = 0, token: str = "") -> graphpb.ListFollowingResponse:
    request = graphpb.ListFollowingRequest(user_id=user_id, page_size=size, page_token=token)
    return await world.graph.list_following(request, as_(user_id))


async def followers(
    world: Social, user_id: int, size: int = 0, token: str = "", viewer_id: int = 0
) -> graphpb.ListFollowersResponse:
    request = graphpb.ListFollowersRequest(user_id=user_id, page_size=size, page_token=token)
    return await world.graph.list_followers(request, as_(viewer_id))


async def relationship(world: Social, viewer_id: int, user_id: int) -> graphpb.Relationship:
    reply = await world.graph.get_relationship(graphpb.GetRelationshipRequest(user_id=user_id), as_(viewer_id))
    return reply.relationship


async def facts(world: Social, viewer_id: int) -> graphpb.GetViewerFactsResponse:
    return await world.graph.get_viewer_facts(graphpb.GetViewerFactsRequest(viewer_id=viewer_id), as_(0))


async def plans(world: Social, *author_ids: int) -> list[graphpb.DeliveryPlan]:
    return list((await world.graph.plan_delivery(graphpb.PlanDeliveryRequest(author_ids=author_ids), as_(0))).items)


async def streamed(world: Social, user_id: int, **fields: int) -> list[graphpb.StreamFollowersResponse]:
    request = graphpb.StreamFollowersRequest(user_id=user_id, **fields)
    return [page async for page in world.graph.stream_followers(request, as_(0))]


async def test_following_twice_is_ok_and_keeps_the_time(world: Social) -> None:
    a, b = await world.people(2)

    first = await world.follow(a, b)
    CLOCK.advance(5)
    second = await world.follow(a, b)

    assert (first.already_following, second.already_following) == (False, True)
    assert first.follow_time == second.follow_time
    stands = await relationship(world, a, b)
    assert stands.following
    assert not stands.followed_by
    assert stands.follow_time == first.follow_time
    assert (stands.follower_count, stands.following_count) == (1, 0)


async def test_nobody_follows_themselves(world: Social) -> None:
    (a,) = await world.people(1)

    with pytest.raises(errors.InvalidArgument) as refusal:
        await world.follow(a, a)

    assert refusal.value.reason == errorspb.ERROR_REASON_SELF_FOLLOW
    assert refusal.value.violations[0].field == "user_id"
    assert not (await world.unfollow(a, a)).was_following


async def test_only_those_who_exist_follow_and_are_followed(world: Social) -> None:
    (a,) = await world.people(1)

    for pair in ((a, 1), (1, a)):
        with pytest.raises(errors.NotFound) as missing:
            await world.follow(*pair)
        assert missing.value.reason == errorspb.ERROR_REASON_USER_NOT_FOUND
        assert missing.value.metadata == {"user_id": "1"}
    assert (await following(world, a)).total_count == 0


async def test_unfollowing_is_ok_whoever_it_is(world: Social) -> None:
    a, b = await world.people(2)

    assert not (await world.unfollow(a, b)).was_following
    assert not (await world.unfollow(a, 1)).was_following
    await world.load((a, 1))
    assert (await world.unfollow(a, 1)).was_following


async def test_that_somebody_exists_is_asked_once_and_together(world: Social) -> None:
    star, *fans = await world.people(21)
    world.asked_of_users.calls.clear()

    await asyncio.gather(*(world.follow(fan, star) for fan in fans))
    await asyncio.gather(*(world.unfollow(fan, star) for fan in fans))
    await asyncio.gather(*(world.follow(fan, star) for fan in fans))

    assert len(world.asked_of_users.calls) <= 2


async def test_somebody_registered_a_moment_ago_is_found(world: Social) -> None:
    (a,) = await world.people(1)
    with pytest.raises(errors.NotFound):
        await world.follow(a, 1)

    b = await world.user()

    assert not (await world.follow(a, b)).already_following


async def test_a_request_id_follows_once(world: Social) -> None:
    a, b, c = await world.people(3)
    first = await world.follow(a, b, "key")
    await world.unfollow(a, b)

    assert await world.follow(a, b, "key") == first
    assert (await following(world, a)).total_count == 0
    with pytest.raises(errors.AlreadyExists) as reused:
        await world.follow(a, c, "key")
    assert reused.value.reason == errorspb.ERROR_REASON_IDEMPOTENCY_KEY_REUSED
    with pytest.raises(errors.AlreadyExists):
        await world.unfollow(a, b, "key")
    assert not (await world.follow(c, b, "key")).already_following


async def test_the_limit_is_a_setting_that_takes_effect_at_once(world: Social) -> None:
    a, b, c = await world.people(3)
    await world.settings.update(FOLLOW_LIMIT.name, "1")
    try:
        await world.follow(a, b)
        with pytest.raises(errors.FailedPrecondition) as refusal:
            await world.follow(a, c)
        assert refusal.value.reason == errorspb.ERROR_REASON_FOLLOW_LIMIT
        assert refusal.value.metadata == {"limit": "1"}
        assert (await world.follow(a, b)).already_following
    finally:
        await world.settings.update(FOLLOW_LIMIT.name, str(FOLLOW_LIMIT.default))
    assert not (await world.follow(a, c)).already_following


async def test_lists_are_latest_first_with_who_they_are_and_how_many(world: Social) -> None:
    star, *fans = await world.people(5)
    for fan in fans:
        CLOCK.advance(1)
        await world.follow(fan, star)
    world.asked_of_users.calls.clear()

    page = await followers(world, star)

    assert [item.user.user_id for item in page.items] == fans[::-1]
    assert all(item.user.username for item in page.items)
    times = [item.follow_time.ToMilliseconds() for item in page.items]
    assert times == sorted(times, reverse=True)
    assert (page.total_count, page.next_page_token) == (4, "")
    assert len(world.asked_of_users.calls) == 1


async def test_pages_join_without_seam_while_the_list_changes(world: Social) -> None:
    star, late, *fans = await world.people(9)
    await world.load(*((fan, star) for fan in fans))
    before = [item.user.user_id for item in (await followers(world, star)).items]

    first = await followers(world, star, 3)
    await world.follow(late, star)
    await world.unfollow(before[3], star)
    second = await followers(world, star, 3, first.next_page_token)

    walked = [item.user.user_id for page in (first, second) for item in page.items]
    assert walked == before[:3] + before[4:]
    assert second.next_page_token == ""


async def test_a_page_token_is_of_one_list_and_one_viewer(world: Social) -> None:
    star, other, *fans = await world.people(5)
    await world.load(*((fan, followed) for fan in fans for followed in (star, other)))
    token = (await followers(world, star, 1)).next_page_token

    assert (await followers(world, star, 1, token)).items
    for wrong in (
        followers(world, other, 1, token),
        followers(world, star, 1, token, viewer_id=star),
        followers(world, star, 1, "nonsense"),
        following(world, star, 1, token),
    ):
        with pytest.raises(errors.InvalidArgument) as refusal:
            await wrong
        assert refusal.value.violations[0].field == "page_token"
    with pytest.raises(errors.InvalidArgument):
        await followers(world, star, -1)


async def test_who_does_not_exist_is_listed_by_id_so_that_list_and_count_agree(world: Social) -> None:
    (a,) = await world.people(1)
    await world.load((a, 1))

    page = await following(world, a)

    assert [(item.user.user_id, item.user.username) for item in page.items] == [(1, "")]
    assert page.total_count == 1


async def test_relationships_keep_order_and_repeats(world: Social) -> None:
    a, b, c = await world.people(3)
    await world.load((a, b), (c, a))
    request = graphpb.BatchGetRelationshipsRequest(viewer_id=a, user_ids=[c, b, 1, c])

    items = (await world.graph.batch_get_relationships(request, as_(0))).items

    assert [(item.user_id, item.following, item.followed_by) for item in items] == [
        (c, False, True),
        (b, True, False),
        (1, False, False),
        (c, False, True),
    ]
    assert not items[0].HasField("follow_time")


async def test_the_next_read_of_whoever_follows_shows_it(world: Social) -> None:
    a, b, c = await world.people(3)
    before = (await facts(world, a)).follow_revision

    await world.follow(a, c)
    await world.follow(a, b)
    after = await facts(world, a)
    await world.unfollow(a, b)
    last = await facts(world, a)

    assert (list(after.followee_ids), after.follow_revision) == (sorted([b, c]), before + 2)
    assert (list(last.followee_ids), last.follow_revision) == ([c], before + 2)


@pytest.mark.parametrize("loaded", [False, True])
async def test_the_fence_of_whoever_follows_is_raised(world: Social, loaded: bool) -> None:
    a, b = await world.people(2)
    key = f"graph:fence:{{{a}}}"

    await (world.load((a, b)) if loaded else world.follow(a, b))

    (answer,) = await world.redis.run(key, fetch(key))
    assert verdict(answer) is PENDING
    (other,) = await world.redis.run(f"graph:fence:{{{b}}}", fetch(f"graph:fence:{{{b}}}"))
    assert other is None


async def test_a_stream_gives_all_followers_by_id_at_a_revision(world: Social) -> None:
    star, *fans = await world.people(8)
    await world.load(*((fan, star) for fan in fans))
    await world.unfollow(fans[0], star)

    pages = await streamed(world, star, page_size=3)

    assert [list(page.follower_ids) for page in pages] == [fans[1:4], fans[4:7]]
    assert {page.revision for page in pages} == {8}
    rest = await streamed(world, star, after_user_id=fans[4])
    assert [list(page.follower_ids) for page in rest] == [fans[5:]]


async def test_follower_lists_are_given_where_what_is_remembered_is_not_current(world: Social) -> None:
    star, *fans = await world.people(4)
    await world.load(*((fan, star) for fan in fans))

    async def ask(*known: tuple[int, int]) -> list[tuple[int, int, int, bool, list[int]]]:
        authors = [graphpb.KnownFollowers(author_id=author, revision=revision) for author, revision in known]
        reply = await world.graph.batch_get_followers(graphpb.BatchGetFollowersRequest(authors=authors), as_(0))
        return [(item.author_id, item.revision, item.follower_count, item.listed, list(item.follower_ids)) for item in reply.items]

    assert await ask((star, -1), (fans[0], -1)) == [(star, 3, 3, True, fans), (fans[0], 0, 0, True, [])]
    assert await ask((star, 3)) == [(star, 3, 3, False, [])]
    await world.unfollow(fans[1], star)
    assert await ask((star, 3)) == [(star, 4, 2, True, [fans[0], fans[2]])]


def test_the_shortest_lists_are_given_first_and_no_more_than_fit() -> None:
    standings = [Standing(1, 60_000, 0, 5), Standing(2, 10, 0, 5), Standing(3, 50_000, 0, 5), Standing(4, 7, 0, 5)]

    assert followerlists.changed(standings, [-1, -1, -1, 5]) == {2, 3}


async def test_a_stream_of_nobody_is_one_empty_page(world: Social) -> None:
    (a,) = await world.people(1)

    pages = await streamed(world, a)

    assert [(list(page.follower_ids), page.revision) for page in pages] == [([], 0)]


async def test_loading_tells_of_each_edge_and_counts_it_once(world: Social) -> None:
    a, b, c = await world.people(3)

    assert await world.load((a, b), (a, b), (a, c), (c, c)) == 2
    assert await world.load((a, b), (b, c)) == 1
    rows = await world.database.query(
        "select subject from graph.outbox where subject = any(%s)", ([f"graph.followed.{each}" for each in (a, b, c)],)
    )
    assert sorted(row[0] for row in rows) == sorted([f"graph.followed.{a}"] * 2 + [f"graph.followed.{b}"])


async def test_reads_for_delivery_that_wait_together_are_few_selects(world: Social) -> None:
    everybody = await world.people(40)
    before = _selects(world)

    await asyncio.gather(*(plans(world, each) for each in everybody))

    assert _selects(world) - before <= 3


class TestPull:
    """An author at the threshold: marked and announced before the first answer that says pull."""

    @pytest.fixture(autouse=True)
    async def threshold(self, world: Social) -> AsyncIterator[None]:
        await world.settings.update(PULL_THRESHOLD.name, "3")
        yield
        await world.settings.update(PULL_THRESHOLD.name, str(PULL_THRESHOLD.default))

    async def author(self, world: Social, fans: int) -> tuple[int, list[int]]:
        star, *followers = await world.people(fans + 1)
        await world.load(*((fan, star) for fan in followers))
        return star, followers

    async def notices(self, world: Social, author_id: int) -> list[int]:
        """How often each cell tells of the author."""
        commands = [(cell.slot, pack("LRANGE", cell.key, 0, -1)) for cell in CELLS]
        answers = await world.redis.scatter(commands)
        return [sum(entry.startswith(b"p%d:" % author_id) for entry in cell) for cell in answers]  # type: ignore[union-attr]

    async def mark(self, world: Social, author_id: int) -> object:
        rows = await world.database.query("select last_pull_time from graph.pull_author where author_id = %s", (author_id,))
        return rows[0][0] if rows else None

    async def test_below_the_threshold_is_pushed(self, world: Social) -> None:
        star, fans = await self.author(world, 2)

        assert [(each.pull, each.follower_count) for each in await plans(world, star, 3)] == [(False, 2), (False, 0)]
        assert await self.mark(world, star) is None
        assert list((await facts(world, fans[0])).pull_author_ids) == []

    async def test_at_the_threshold_is_pulled_and_readers_know(self, world: Social) -> None:
        star, fans = await self.author(world, 3)

        (plan,) = await plans(world, star)

        assert plan.pull
        assert await self.notices(world, star) == [1] * len(CELLS)
        assert list((await facts(world, fans[0])).pull_author_ids) == [star]
        assert list((await facts(world, star)).pull_author_ids) == []

    async def test_the_mark_is_renewed_once_an_hour_and_announced_once(self, world: Social) -> None:
        star, _ = await self.author(world, 3)
        await plans(world, star)
        first = await self.mark(world, star)
        CLOCK.advance(3_599)
        await plans(world, star)
        assert await self.mark(world, star) == first

        CLOCK.advance(2)
        await plans(world, star)

        assert await self.mark(world, star) != first
        assert await self.notices(world, star) == [1] * len(CELLS)

    async def test_readers_are_told_for_eight_days_whatever_the_threshold_is_then(self, world: Social) -> None:
        star, fans = await self.author(world, 3)
        await plans(world, star)
        await world.settings.update(PULL_THRESHOLD.name, "100")

        assert not (await plans(world, star))[0].pull
        CLOCK.advance(8 * DAY - 1)
        assert list((await facts(world, fans[0])).pull_author_ids) == [star]
        CLOCK.advance(2)
        assert list((await facts(world, fans[0])).pull_author_ids) == []

    async def test_an_author_of_whom_readers_may_have_heard_no_more_is_announced_again(self, world: Social) -> None:
        star, fans = await self.author(world, 3)
        await plans(world, star)
        CLOCK.advance(9 * DAY)

        assert (await plans(world, star))[0].pull

        assert await self.notices(world, star) == [2] * len(CELLS)
        assert list((await facts(world, fans[0])).pull_author_ids) == [star]


async def test_through_grpc(world: Social) -> None:
    a, b = await world.people(2)
    me = (("x-user-id", str(a)),)
    async with (
        served(world.graph, SERVICE, "graph") as address,
        channel.connect([address], SERVICE, Metrics("client")) as connection,
    ):
        stub = graphpb.GraphServiceStub(connection)
        reply = await stub.Follow(graphpb.FollowRequest(user_id=b), timeout=5, metadata=me)
        assert not reply.already_following
        for call in (
            stub.Follow(graphpb.FollowRequest(user_id=b, request_id="\0"), timeout=5, metadata=me),
            stub.Unfollow(graphpb.UnfollowRequest(user_id=b, request_id="\0"), timeout=5, metadata=me),
        ):
            with pytest.raises(errors.InvalidArgument) as wrong:
                await call
            assert [each.field for each in wrong.value.violations] == ["request_id"]
        page = await stub.ListFollowers(graphpb.ListFollowersRequest(user_id=b), timeout=5)
        assert page.items[0].user == userpb.UserSummary(
            user_id=a, username=page.items[0].user.username, display_name=page.items[0].user.display_name
        )
        pages = [each async for each in stub.StreamFollowers(graphpb.StreamFollowersRequest(user_id=b), timeout=5)]
        assert [list(each.follower_ids) for each in pages] == [[a]]
        with pytest.raises(errors.Unauthenticated):
            await stub.Follow(graphpb.FollowRequest(user_id=b), timeout=5)
        with pytest.raises(errors.InvalidArgument) as wrong:
            await stub.Unfollow(graphpb.UnfollowRequest(), timeout=5, metadata=me)
        assert wrong.value.violations[0].field == "user_id"
        with pytest.raises(errors.InvalidArgument) as refusal:
            await stub.Follow(graphpb.FollowRequest(user_id=a), timeout=5, metadata=me)
        assert refusal.value.reason == errorspb.ERROR_REASON_SELF_FOLLOW


def _selects(world: Social) -> float:
    name = "chirp_coalesce_batch_size_count"
    return world.metrics.registry.get_sample_value(name, {"name": "graph.accounts"}) or 0


async def test_without_redis_and_nats_everything_is_written_nevertheless(database: str) -> None:
    async with social(database, "127.0.0.1:1", "nats://127.0.0.1:1") as alone:
        star, *fans = await alone.people(4)
        await asyncio.gather(*(alone.follow(fan, star) for fan in fans))
        await alone.settings.update(PULL_THRESHOLD.name, "3")
        try:
            assert [plan.pull for plan in await plans(alone, star)] == [True]
        finally:
            await alone.settings.update(PULL_THRESHOLD.name, str(PULL_THRESHOLD.default))
        profile = userpb.UpdateProfileRequest(profile=userpb.Profile(bio="still here"))
        await alone.users.update_profile(profile, as_(star))

        assert list((await facts(alone, fans[0])).pull_author_ids) == [star]
        assert (await followers(alone, star)).total_count == 3
