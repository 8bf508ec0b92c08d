"""The registry of a process and its RPC numbers."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.runtime.call import BACKGROUND
from services.runtime.metrics import SECONDS, Metrics


def test_the_same_name_is_the_same_metric() -> None:
    metrics = Metrics("tweet")
    first = metrics.counter("chirp_tweet_created_total", "Tweets.", ["kind"])

    assert metrics.counter("chirp_tweet_created_total", "Tweets.", ["kind"]) is first
    with pytest.raises(TypeError, match="chirp_tweet_created_total"):
        metrics.gauge("chirp_tweet_created_total", "Tweets.")


def test_processes_do_not_share_numbers() -> None:
    one, other = Metrics("a"), Metrics("b")
    one.counter("made_total", "Made.").inc()

    assert b"made_total 1.0" in one.page()
    assert b"made_total" not in other.page()


def test_times_are_cumulative_as_prometheus_wants_them() -> None:
    metrics = Metrics("tweet")
    cell = metrics.server.cell(BACKGROUND)
    for seconds in (0.0001, 0.0005, 0.003, 99.0):
        cell.started += 1
        cell.ended(0, seconds)

    page = metrics.page().decode()
    family = next(each for each in text_string_to_metric_families(page) if each.name == "grpc_server_handling_seconds")
    buckets = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
    assert len(buckets) == len(SECONDS) + 1
    assert (buckets[0], buckets[3], buckets[-2], buckets[-1]) == (2, 3, 3, 4)
    assert "grpc_server_handling_seconds_count" in page


def test_codes_are_spelt_as_by_the_go_middleware() -> None:
    metrics = Metrics("tweet")
    cell = metrics.server.cell(BACKGROUND)
    for code in range(17):
        cell.ended(code, 0.0)

    codes = {
        sample.labels["grpc_code"]
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
        if sample.name == "grpc_server_handled_total"
    }
    assert codes == {
        "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
        "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable",
        "DataLoss", "Unauthenticated",
    }  # fmt: skip


def test_a_method_has_one_cell() -> None:
    metrics = Metrics("tweet")

    assert metrics.server.cell(BACKGROUND) is metrics.server.cell(BACKGROUND)
    assert metrics.server.cell(BACKGROUND) is not metrics.client.cell(BACKGROUND)
