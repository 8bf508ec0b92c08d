"""What a batch of follows and unfollows makes of accounts and edges."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.graph import v1 as graphpb
from services.graph.changes import Account, Changes, Pair, Wish

NOW = 1_800_000_000_000
EARLIER = NOW - 1_000_000
USERS = (1, 2, 3)
PAIRS = [Pair(a, b) for a in USERS for b in USERS if a != b]

pairs = st.sampled_from(PAIRS)
wishes = st.lists(st.tuples(pairs, st.booleans()).map(lambda each: Wish(*each)), max_size=12)


def state(standing: set[Pair], limit: int = 100) -> Changes:
    """Accounts whose counts agree with these edges."""
    follows, followed = Counter(pair.follower_id for pair in standing), Counter(pair.followee_id for pair in standing)
    accounts = {user: Account(user, followed[user], follows[user], 50, 60, 70) for user in USERS}
    return Changes(accounts, dict.fromkeys(standing, EARLIER), {}, limit, NOW)


def followed(reply: bytes | errors.ServiceError) -> graphpb.FollowResponse:
    assert isinstance(reply, bytes)
    return graphpb.FollowResponse.FromString(reply)


def unfollowed(reply: bytes | errors.ServiceError) -> graphpb.UnfollowResponse:
    assert isinstance(reply, bytes)
    return graphpb.UnfollowResponse.FromString(reply)


@given(st.sets(pairs), wishes)
def test_the_last_wish_of_each_pair_decides_and_everything_agrees(before: set[Pair], asked: list[Wish]) -> None:
    changes = state(before)
    expected = set(before)

    for wish in asked:
        reply = changes.answer(wish)
        if wish.follow:
            assert followed(reply).already_following == (wish.pair in expected)
            expected.add(wish.pair)
        else:
            assert unfollowed(reply).was_following == (wish.pair in expected)
            expected.discard(wish.pair)

    assert set(changes.standing) == expected
    assert (before - changes.lost) | set(changes.gained) == expected
    assert set(changes.gained).isdisjoint(before)
    assert changes.lost | set(changes.remade) <= before
    for user in USERS:
        assert changes.accounts[user].follower_count == sum(pair.followee_id == user for pair in expected)
        assert changes.accounts[user].following_count == sum(pair.follower_id == user for pair in expected)
    untouched = set(USERS) - {account.user_id for account in changes.changed()}
    assert untouched.isdisjoint(user for wish_pair in changes.gained for user in wish_pair)


@given(st.sets(pairs), wishes)
def test_the_event_of_highest_revision_tells_how_the_edge_stands(before: set[Pair], asked: list[Wish]) -> None:
    changes = state(before)
    for wish in asked:
        changes.answer(wish)

    latest: dict[Pair, tuple[int, bool]] = {}
    for event in sorted(changes.events, key=lambda each: each.payload):
        follow = event.subject.startswith("graph.followed.")
        kind = graphpb.Followed if follow else graphpb.Unfollowed
        message = kind.FromString(event.payload)
        pair = Pair(message.follower_id, message.followee_id)
        assert event.subject.endswith(f".{message.follower_id}")
        assert message.revision != latest.get(pair, (0, False))[0]
        latest[pair] = max(latest.get(pair, (0, False)), (message.revision, follow))
    assert len(changes.events) == changes.made + changes.ended
    for pair, (revision, follow) in latest.items():
        assert follow == (pair in changes.standing)
        edge = changes.gained.get(pair) or changes.remade.get(pair)
        assert edge is None or edge.revision == revision


@given(st.sets(pairs), wishes)
def test_revisions_rise_with_every_change_of_an_account(before: set[Pair], asked: list[Wish]) -> None:
    changes = state(before)
    for wish in asked:
        seen = {user: (account.edge_revision, account.follower_revision) for user, account in changes.accounts.items()}
        stood = wish.pair in changes.standing
        changes.answer(wish)
        changed = stood != (wish.pair in changes.standing)
        follower, followee = (changes.accounts[user] for user in wish.pair)
        assert (follower.edge_revision > seen[wish.pair.follower_id][0]) == changed
        assert (followee.follower_revision > seen[wish.pair.followee_id][1]) == changed


def test_a_second_follow_keeps_the_time_of_the_first() -> None:
    changes = state({Pair(1, 2)})

    reply = followed(changes.answer(Wish(Pair(1, 2), True)))

    assert reply.already_following
    assert reply.follow_time.ToMilliseconds() == EARLIER
    assert not changes.touched
    assert not changes.events


def test_only_following_raises_what_a_reader_rebuilds_for() -> None:
    changes = state({Pair(1, 2)})
    before = changes.accounts[1].follow_revision

    changes.answer(Wish(Pair(1, 2), False))
    assert changes.accounts[1].follow_revision == before
    changes.answer(Wish(Pair(1, 2), True))
    assert changes.accounts[1].follow_revision == before + 1


def test_the_limit_refuses_the_next_follow_and_nothing_else() -> None:
    changes = state({Pair(1, 2)}, limit=1)

    refusal = changes.answer(Wish(Pair(1, 3), True, "key"))

    assert isinstance(refusal, errors.FailedPrecondition)
    assert refusal.reason == errorspb.ERROR_REASON_FOLLOW_LIMIT
    assert refusal.metadata == {"limit": "1"}
    assert not changes.touched
    assert followed(changes.answer(Wish(Pair(1, 2), True))).already_following
    assert unfollowed(changes.answer(Wish(Pair(1, 2), False))).was_following
    assert not followed(changes.answer(Wish(Pair(1, 3), True, "key"))).already_following


def test_a_request_id_answers_the_same_and_changes_nothing_again() -> None:
    changes = state(set())
    first = changes.answer(Wish(Pair(1, 2), True, "key", b"payload"))
    changes.answer(Wish(Pair(1, 2), False))

    assert changes.answer(Wish(Pair(1, 2), True, "key", b"payload")) == first
    assert Pair(1, 2) not in changes.standing
    reused = changes.answer(Wish(Pair(1, 3), True, "key", b"another"))
    assert isinstance(reused, errors.AlreadyExists)
    assert reused.reason == errorspb.ERROR_REASON_IDEMPOTENCY_KEY_REUSED
    assert isinstance(changes.answer(Wish(Pair(2, 3), True, "key", b"another")), bytes)
    assert len(changes.new_replies) == 2


def test_what_is_remembered_or_replayed_is_written_under_a_new_revision() -> None:
    changes = state({Pair(1, 2)})
    before = changes.accounts[1].edge_revision

    changes.answer(Wish(Pair(1, 2), True, "key"))
    changes.answer(Wish(Pair(1, 2), True, "key"))

    assert changes.accounts[1].edge_revision == before + 2
    assert changes.accounts[1].edge_revision_seen == before
    assert changes.touched == {1}


def test_loading_ignores_the_limit_and_counts_new_edges_once() -> None:
    changes = state({Pair(1, 2)}, limit=1)

    assert changes.make([Pair(1, 2), Pair(1, 3), Pair(1, 3), Pair(2, 3)]) == 2
    assert changes.accounts[3].follower_count == 2
    assert [edge.position for edge in changes.gained.values()] == [71, 72]
