"""Limits per method and for the process, and what is refused first."""

from dataclasses import replace

import pytest

from chirp import errors
from chirp.options import v1 as optionspb
from services.runtime.admission import Admission, Gate
from services.runtime.call import BACKGROUND, Call
from services.runtime.methods import Kind

CALL = Call.background()


def gate(admission: Admission, criticality: optionspb.Criticality.ValueType, limit: int = 1000, kind: Kind = Kind.UNARY) -> Gate:
    return admission.gate(replace(BACKGROUND, criticality=criticality, max_in_flight=limit, kind=kind))


def admitted(subject: Gate, tries: int) -> int:
    """How many of so many calls get in; they stay."""
    count = 0
    for _ in range(tries):
        try:
            subject.enter(CALL)
        except errors.ResourceExhausted:
            break
        count += 1
    return count


def test_a_method_has_its_own_limit() -> None:
    process = Admission(100)
    small, other = gate(process, optionspb.CRITICALITY_NORMAL, 3), gate(process, optionspb.CRITICALITY_NORMAL)

    assert admitted(small, 10) == 3
    assert admitted(other, 5) == 5
    small.leave(CALL)
    assert admitted(small, 10) == 1


def test_the_less_critical_the_sooner() -> None:
    process = Admission(100)
    sheddable = gate(process, optionspb.CRITICALITY_SHEDDABLE)
    normal = gate(process, optionspb.CRITICALITY_NORMAL)
    critical = gate(process, optionspb.CRITICALITY_CRITICAL)

    assert admitted(sheddable, 1000) == 70
    assert admitted(normal, 1000) == 20
    assert admitted(critical, 1000) == 10
    assert process.in_flight == 100
    critical.leave(CALL)
    assert admitted(normal, 1) == 0
    assert admitted(critical, 2) == 1


def test_streams_count_for_their_method_only() -> None:
    process = Admission(2)
    streams = gate(process, optionspb.CRITICALITY_SHEDDABLE, 50, Kind.SERVER_STREAM)

    assert admitted(streams, 100) == 50
    assert process.in_flight == 0


def test_the_smallest_process_admits_something() -> None:
    assert admitted(gate(Admission(1), optionspb.CRITICALITY_SHEDDABLE), 5) == 1


def test_a_refusal_says_what_and_when_to_come_back() -> None:
    subject = gate(Admission(100), optionspb.CRITICALITY_NORMAL, 1)
    subject.enter(CALL)
    with pytest.raises(errors.ResourceExhausted, match="background") as caught:
        subject.enter(CALL)
    assert caught.value.retry_after == 0.25
    assert subject.in_flight == 1
