"""What a handler knows about its call."""

import math

import pytest

from chirp import errors
from services.runtime.call import BACKGROUND, Call
from services.runtime.clock import ManualClock


class Peer:
    """A door that counts how often it is asked."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self.sent, self.asked = metadata, 0

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        self.asked += 1
        return self.sent

    def peer(self) -> str:
        return "ipv4:10.0.0.1:5"


def call(*metadata: tuple[str, str | bytes], left: float = math.inf, viewer_id: int = 0) -> tuple[Call, Peer]:
    clock, peer = ManualClock(), Peer(*metadata)
    return Call(BACKGROUND, clock, clock.monotonic() + left, viewer_id, source=peer), peer


def test_metadata_is_read_when_asked_for_and_once() -> None:
    subject, peer = call(("a", "1"), ("b-bin", b"\x00"), ("a", "2"))

    assert peer.asked == 0
    assert (subject.metadata, subject.metadata) == ({"a": "2"}, {"a": "2"})
    assert peer.asked == 1


def test_the_request_id_is_the_peers() -> None:
    assert call(("x-request-id", "abc"))[0].request_id == "abc"


@pytest.mark.parametrize("sent", ["", "x" * 129, "line\nbreak", "ünicode"])
def test_an_unusable_request_id_is_replaced(sent: str) -> None:
    subject = call(("x-request-id", sent))[0]

    assert len(subject.request_id) == 16
    assert subject.request_id == subject.request_id


def test_nobody_is_no_viewer() -> None:
    with pytest.raises(errors.Unauthenticated):
        call()[0].viewer()
    assert call(viewer_id=7)[0].viewer() == 7


def test_time_runs_out() -> None:
    clock = ManualClock()
    subject = Call.background(clock, timeout=2.0)
    clock.advance(0.5)

    assert subject.remaining() == pytest.approx(1.5)
    assert Call.background(clock).remaining() == math.inf


def test_onward_keeps_some_time_back_and_carries_who_and_what() -> None:
    subject = call(("x-request-id", "abc"), left=1.0, viewer_id=7)[0]

    onward = subject.onward()

    assert onward["timeout"] == pytest.approx(0.980)
    assert onward["metadata"] == (("x-request-id", "abc"), ("x-user-id", "7"))
    assert subject.onward(at_most=0.3)["timeout"] == 0.3


def test_onward_from_nobody_carries_no_viewer_and_always_a_timeout() -> None:
    onward = Call.background(ManualClock(), request_id="r").onward()

    assert onward == {"timeout": 5.0, "metadata": (("x-request-id", "r"),)}


def test_onward_without_time_left_is_refused() -> None:
    with pytest.raises(errors.DeadlineExceeded):
        call(left=0.020)[0].onward()


def test_the_peer_is_not_asked_after_the_end() -> None:
    subject, _ = call()
    assert subject.peer == "ipv4:10.0.0.1:5"
    subject.source = None
    assert subject.peer == ""
