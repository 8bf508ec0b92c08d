"""Page sizes and page tokens."""

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.paging import PageTokens, page_size

TOKENS = PageTokens(b"0123456789abcdef")
NUMBERS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6)


@pytest.mark.parametrize(("asked", "given_"), [(0, 20), (1, 1), (200, 200), (201, 200), (2**31 - 1, 200)])
def test_page_size(asked: int, given_: int) -> None:
    assert page_size(asked) == given_


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        page_size(-1)
    assert caught.value.violations[0].field == "page_size"


@given(kind=st.text(max_size=20), viewer_id=st.integers(0, 2**63 - 1), values=NUMBERS)
def test_a_token_brings_back_its_position(kind: str, viewer_id: int, values: list[int]) -> None:
    token = TOKENS.encode(kind, viewer_id, values)

    assert TOKENS.decode(token, kind, viewer_id) == tuple(values)
    assert token.replace("-", "").replace("_", "").isalnum()


def test_the_empty_token_is_the_first_page() -> None:
    assert TOKENS.decode("", "home", 1) == ()


def refused(token: str, kind: str = "home", viewer_id: int = 1) -> bool:
    with pytest.raises(errors.InvalidArgument) as caught:
        TOKENS.decode(token, kind, viewer_id, field="after")
    assert caught.value.reason == errorspb.ERROR_REASON_PAGE_TOKEN_INVALID
    return caught.value.violations[0].field == "after"


def test_a_token_of_another_viewer_list_or_key_is_refused() -> None:
    token = TOKENS.encode("home", 1, [7])

    assert refused(token, viewer_id=2)
    assert refused(token, kind="user")
    assert refused(PageTokens(b"another key, 16+").encode("home", 1, [7]))


@given(st.text(max_size=60).filter(bool))
def test_nonsense_is_refused(token: str) -> None:
    assert refused(token)


@given(st.data())
def test_a_changed_token_is_refused(data: st.DataObject) -> None:
    token = TOKENS.encode("home", 1, [7, 2**60])
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABCDabcd0189-_"))
    changed = token[:place] + letter + token[place + 1 :]
    if changed != token:
        assert refused(changed)


@pytest.mark.parametrize("values", [[], [7], [7, 2**60], [-1, -1]], ids=str)
def test_another_spelling_of_the_same_bytes_is_refused(values: list[int]) -> None:
    token = TOKENS.encode("home", 1, values)
    padding = "=" * (-len(token) % 4)
    sealed = base64.urlsafe_b64decode(token + padding)
    last_letters = [token[:-1] + letter for letter in string.ascii_letters + string.digits + "-_"]
    same = [other for other in last_letters if base64.urlsafe_b64decode(other + padding) == sealed and other != token]

    assert len(same) == (0, 3, 15)[len(padding)]
    assert all(map(refused, same))
    assert not padding or refused(token + padding)
    assert refused(token + "=")


def test_the_letters_of_the_other_alphabet_are_refused() -> None:
    tokens = [TOKENS.encode("home", 1, [number]) for number in range(50)]
    others = {token: token.replace("-", "+").replace("_", "/") for token in tokens}

    assert any(token != other for token, other in others.items())
    assert all(refused(other) for token, other in others.items() if token != other)
