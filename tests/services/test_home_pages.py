"""Walks through a home: to older tweets down to the very first, and to newer ones without losing what comes late."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from chirp import errors
from chirp.errors import v1 as errorspb
from services.timeline import home, pages, window
from tests.services.gates import AFTER
from tests.services.world import Replica, World, open_world, shown, spawn


@pytest.fixture(scope="module")
async def world(database: str, redis_nodes: str, nats_url: str) -> AsyncIterator[World]:
    async with open_world(database, redis_nodes, nats_url) as world:
        yield world


@pytest.mark.parametrize("size", [7, 20, 200])
async def test_a_walk_meets_every_tweet_once_to_the_very_first(world: World, size: int) -> None:
    authors = await world.users(3)
    reader = await world.a_user(*authors)
    tweets = await world.history([*authors, reader], 1_000, spacing_ms=20_000)
    for replica in world.replicas:
        assert await replica.home(reader, size) == tweets[::-1]
    assert len((await world.window(reader)).ids) == window.CAPACITY  # type: ignore[union-attr]


async def test_a_page_is_as_long_as_asked(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    await world.history([author], 230)
    lengths = [len(shown(await world.first.page(reader, size))) for size in (0, 1, 20, 199, 200, 201, 100_000)]
    assert lengths == [20, 1, 20, 199, 200, 200, 200]
    with pytest.raises(errors.InvalidArgument) as refused:
        await world.first.page(reader, -1)
    assert [violation.field for violation in refused.value.violations] == ["page_size"]


async def test_the_last_page_has_no_token_even_when_it_is_full(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    tweets = await world.history([author], 6)
    first = await world.first.page(reader, 3)
    last = await world.first.page(reader, 3, first.next_page_token)
    assert [*shown(first), *shown(last)] == tweets[::-1]
    assert last.next_page_token == ""


async def test_a_page_is_full_although_much_of_it_is_deleted_or_hidden(world: World) -> None:
    author, stranger = await world.users(2)
    reader = await world.a_user(author)
    question = await world.a_tweet(stranger)
    kept: list[int] = []
    for _ in range(12):
        kept.insert(0, await world.a_tweet(author))
        await world.a_tweet(author, reply_to=question)
        await world.delete(author, await world.a_tweet(author))
    await world.deliver()
    for replica in world.replicas:
        page = await replica.page(reader, 8)
        assert shown(page) == kept[:8]
        assert shown(await replica.page(reader, 8, page.next_page_token)) == kept[8:]


async def test_a_token_goes_on_where_its_tweet_was_deleted(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    tweets = (await world.history([author], 9))[::-1]
    page = await world.first.page(reader, 3)
    await world.delete(author, tweets[2])
    await world.drop(reader)
    assert shown(await world.second.page(reader, 3, page.next_page_token)) == tweets[3:6]


async def test_a_token_from_long_ago_goes_on_from_there(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    tweets = (await world.history([author], 30))[::-1]
    page = await world.first.page(reader, 5)
    world.clock.advance(400 * 86_400)
    await world.history([author], 50)
    await world.flush()
    assert shown(await world.second.page(reader, 5, page.next_page_token)) == tweets[5:10]


async def test_a_home_in_which_nothing_can_be_shown_is_walked_in_bounded_steps(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MOST_STRETCHES", 4)
    monkeypatch.setattr(home, "TRUTH_STRETCH", 5)
    monkeypatch.setattr(window, "CAPACITY", 5)
    stranger, author = await world.users(2)
    reader = await world.a_user(author)
    question = await world.a_tweet(stranger)
    first = await world.a_tweet(author)
    for _ in range(60):
        await world.a_tweet(author, reply_to=question)
    walk = [page async for page in world.first.pages(reader)]
    assert [tweet_id for page in walk for tweet_id in shown(page)] == [first]
    assert 3 <= len(walk) <= 5
    (found,) = (page for page in walk if page.items)
    polled = await world.first.page(reader, after=found.newer_token)
    assert (shown(polled), polled.gap) == ([], True), "more is above, of which nothing can be shown"
    assert (await world.first.news(reader, polled.newer_token))[0] == []


async def refused(attempt: Awaitable[object]) -> tuple[list[str], int]:
    with pytest.raises(errors.InvalidArgument) as caught:
        await attempt
    return [violation.field for violation in caught.value.violations], caught.value.reason


async def test_tokens_that_are_not_for_this_list_are_refused(world: World) -> None:
    author = await world.a_user()
    reader, other = await world.a_user(author), await world.a_user(author)
    await world.history([author], 5)
    mine, replica = await world.first.page(reader, 2), world.first
    others, profile = await replica.page(other, 2), await replica.profile(author, reader, 2)
    invalid = errorspb.ERROR_REASON_PAGE_TOKEN_INVALID
    bad = ["no token", "%%%", mine.next_page_token[:-2], others.next_page_token, profile.next_page_token, mine.newer_token]
    for token in bad:
        assert await refused(replica.page(reader, 2, token)) == (["page_token"], invalid), token
    bad = ["no token", mine.newer_token[:-4], others.newer_token, profile.newer_token, mine.next_page_token]
    for token in bad:
        assert await refused(replica.page(reader, 2, after=token)) == (["after"], invalid), token
    fields, _ = await refused(replica.page(reader, 2, mine.next_page_token, mine.newer_token))
    assert fields == ["after"]


async def test_a_walk_while_tweets_are_made_and_deleted_is_without_double_or_gap(world: World) -> None:
    dice = random.Random(7)
    authors = await world.users(3)
    reader = await world.a_user(*authors)
    old = await world.history([*authors, reader], 300, spacing_ms=2_000)
    owner = dict(zip(old, [*authors, reader] * 75, strict=True))
    met: list[int] = []
    deleted: dict[int, int] = {}
    first_page: list[int] = []
    token = ""
    while token or not met:
        page = await dice.choice(world.replicas).page(reader, dice.choice((3, 10, 17)), token)
        token, found = page.next_page_token, shown(page)
        assert not deleted.keys() & set(found), "served after its deletion"
        met += found
        first_page = first_page or found
        await world.a_tweet(dice.choice([*authors, reader]))
        for doomed in dice.sample(old, 2):
            if doomed not in deleted:
                await world.delete(owner[doomed], doomed)
                deleted[doomed] = met[-1]
        if dice.random() < 0.3:
            await world.deliver()
        if dice.random() < 0.1:
            await world.drop(reader)
    assert met == sorted(set(met), reverse=True)
    expected = [each for each in old if each < first_page[0] and not (each in deleted and each < deleted[each])]
    assert [each for each in expected if each not in met] == []


class TestNewer:
    """Polls with `after`."""

    @pytest.fixture(params=["warm", "cold", "without cache"])
    def reading(self, request: pytest.FixtureRequest, world: World) -> Callable[[int], Awaitable[Replica]]:
        """Brings a home into a state of the cache; gives the replica to ask."""

        async def prepared(reader: int) -> Replica:
            if request.param == "cold":
                await world.drop(reader)
            world.second.redis.away = lambda key: request.param == "without cache"
            return world.second

        return prepared

    @pytest.fixture(autouse=True)
    async def restored(self, world: World) -> AsyncIterator[None]:
        yield
        world.second.redis.away = lambda key: False

    async def test_everything_newer_comes_once_ascending(self, world: World, reading: Callable[[int], Awaitable[Replica]]) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        await world.history([author], 30)
        token, seen = (await world.first.page(reader, 10)).newer_token, list[int]()
        for count in (0, 1, 25, 3):
            made = await world.some_tweets([author, reader], count)
            await world.deliver()
            world.clock.advance(1)
            found, token = await (await reading(reader)).news(reader, token, 10)
            assert found == made
            seen += found
        assert seen == sorted(set(seen))

    async def test_a_cut_page_says_that_there_is_more(self, world: World, reading: Callable[[int], Awaitable[Replica]]) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        token = (await world.first.page(reader)).newer_token
        made = await world.some_tweets([author], 7)
        await world.deliver()
        replica = await reading(reader)
        page = await replica.page(reader, 4, after=token)
        assert (shown(page), page.gap, page.next_page_token) == (made[:4], True, "")
        page = await replica.page(reader, 4, after=page.newer_token)
        assert shown(page) == made[4:]
        page = await replica.page(reader, 4, after=page.newer_token)
        assert (shown(page), page.gap) == ([], False)

    async def test_more_than_the_window_holds_comes_too(
        self, world: World, reading: Callable[[int], Awaitable[Replica]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(window, "CAPACITY", 30)
        monkeypatch.setattr(window, "SLACK", 3)
        monkeypatch.setattr(home, "MARGIN", 5)
        author = await world.a_user()
        reader = await world.a_user(author)
        await world.history([author], 5)
        token = (await world.first.page(reader)).newer_token
        made: list[int] = []
        for _ in range(6):
            made += await world.some_tweets([author], 15, spacing_ms=200)
            await world.deliver()
        found, _ = await (await reading(reader)).news(reader, token, 20)
        assert found == made

    async def test_late_arrivals_below_the_cursor_come_too(
        self, world: World, reading: Callable[[int], Awaitable[Replica]]
    ) -> None:
        author, slow = await world.users(2)
        reader = await world.a_user(author, slow)
        await world.first.home(reader)
        await world.deliver()
        late, seen = await world.a_tweet(slow), await world.a_tweet(author)
        of_late, of_seen = await world.events()
        await world.worker.handle(of_seen)
        page = await world.first.page(reader)
        assert shown(page) == [seen]
        await world.worker.handle(of_late)
        found, token = await (await reading(reader)).news(reader, page.newer_token)
        assert found == [late]
        assert (await (await reading(reader)).news(reader, token))[0] == []

    async def test_an_empty_home_has_a_token_for_what_comes(
        self, world: World, reading: Callable[[int], Awaitable[Replica]]
    ) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        token = (await world.first.page(reader)).newer_token
        assert (await (await reading(reader)).news(reader, token))[0] == []
        made = await world.some_tweets([author], 3)
        await world.deliver()
        assert (await (await reading(reader)).news(reader, token))[0] == made

    async def test_own_tweets_come_at_once(self, world: World, reading: Callable[[int], Awaitable[Replica]]) -> None:
        reader = await world.a_user()
        token = (await world.first.page(reader)).newer_token
        for _ in range(5):
            made = await world.a_tweet(reader)
            found, token = await (await reading(reader)).news(reader, token)
            assert found == [made]

    async def test_what_was_deleted_meanwhile_does_not_come(
        self, world: World, reading: Callable[[int], Awaitable[Replica]]
    ) -> None:
        author = await world.a_user()
        reader = await world.a_user(author)
        token = (await world.first.page(reader)).newer_token
        made = await world.some_tweets([author], 3)
        await world.deliver()
        await world.delete(author, made[1])
        assert (await (await reading(reader)).news(reader, token))[0] == [made[0], made[2]]


async def test_a_home_built_anew_is_a_gap_once(world: World) -> None:
    author, followed_later = await world.users(2)
    reader = await world.a_user(author)
    await world.history([author, followed_later], 4)
    token = (await world.first.page(reader)).newer_token
    await world.follows(reader, followed_later)
    page = await world.first.page(reader, after=token)
    assert page.gap, "older tweets have come in below"
    page = await world.first.page(reader, after=page.newer_token)
    assert not page.gap


async def test_a_poll_while_another_replica_builds_the_window_anew_misses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "MARGIN", 0)
    author = await world.a_user()
    reader = await world.a_user(author)
    await world.history([author], 3)
    token = (await world.first.page(reader)).newer_token
    made = await world.some_tweets([author], 12)
    await world.deliver()
    looked = world.first.redis.gates.hold("look", AFTER)
    begun = world.second.redis.gates.hold("begin", AFTER)
    polling = spawn(world.first.page(reader, 5, after=token))
    await looked.reached()
    await world.drop(reader)
    building = spawn(world.second.home(reader))
    await begun.reached()
    looked.open()
    page = await polling
    begun.open()
    assert (shown(page), page.gap) == (made[:5], True)
    assert (await building)[0] == made[-1]


async def test_a_token_of_a_deep_page_gives_all_that_is_above_it(world: World) -> None:
    author = await world.a_user()
    reader = await world.a_user(author)
    tweets = (await world.history([author], 40))[::-1]
    first = await world.first.page(reader, 10)
    second = await world.first.page(reader, 10, first.next_page_token)
    found, _ = await world.first.news(reader, second.newer_token, 7)
    assert found == shown(first)[::-1]
    assert shown(first) == tweets[:10]
