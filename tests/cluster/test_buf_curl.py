"""What people debug with: reflection, health, JSON calls from a shell, and metrics that answer an operator's questions."""

from __future__ import annotations

import asyncio
import base64
import json
import shlex
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from google.rpc import error_details_pb2
from prometheus_client.parser import text_string_to_metric_families

from services.cluster import demo, summary
from tests.cluster.clients import Clients
from tests.cluster.command import record_of
from tests.conftest import Cluster
from tests.gateway.client import Client
from tests.waiting import eventually

BUF = str(Path(sysconfig.get_path("scripts")) / "buf")
PLAIN = ("--protocol", "grpc", "--http2-prior-knowledge")
OWN = {"grpc.health.v1.Health", "grpc.channelz.v1.Channelz", "chirp.ops.v1.OpsService"}
"""Served by every process."""
SERVICES = {
    "id": {"chirp.id.v1.IdService"},
    "user": {"chirp.user.v1.UserService"},
    "graph": {"chirp.graph.v1.GraphService"},
    "tweet": {"chirp.tweet.v1.TweetService"},
    "timeline": {"chirp.timeline.v1.TimelineService"},
    "fanout": set[str](),
    "relay": set[str](),
}
CREATE, HOME = "chirp.tweet.v1.TweetService/CreateTweet", "chirp.timeline.v1.TimelineService/GetHomeTimeline"


async def run(*command: str) -> tuple[int, str, str]:
    """Status, output and complaints of a command."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, complaints = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), complaints.decode()


async def buf(address: str, *arguments: str) -> str:
    """`buf curl` that succeeds."""
    status, out, complaints = await run(BUF, "curl", *PLAIN, *arguments[:-1], f"http://{address}{arguments[-1]}")
    assert status == 0, complaints
    return out


class TestBuf:
    @pytest.mark.parametrize("process", SERVICES)
    async def test_lists_what_is_served(self, cluster: Cluster, process: str) -> None:
        listed = set((await buf(cluster.address(process), "--list-services", "")).split())
        assert listed >= OWN | SERVICES[process], listed
        assert not {name for name in listed if name.startswith("chirp.")} - OWN - SERVICES[process]

    async def test_lists_methods(self, cluster: Cluster) -> None:
        methods = (await buf(cluster.address("tweet"), "--list-methods", "")).split()
        assert {CREATE, "chirp.tweet.v1.TweetService/ValidateText"} <= set(methods)

    async def test_calls_with_json(self, cluster: Cluster, clients: Clients) -> None:
        header = f"X-User-ID: {await clients.user()}"
        posted = await buf(cluster.address("tweet"), "-H", header, "-d", '{"text": "from a shell #now"}', f"/{CREATE}")
        tweet = json.loads(posted)["tweet"]
        assert tweet["text"] == "from a shell #now"
        home = json.loads(await buf(cluster.address("timeline-1"), "-H", header, "-d", '{"pageSize": 5}', f"/{HOME}"))
        assert [item["tweet"]["tweetId"] for item in home["items"]] == [tweet["tweetId"]]

    async def test_shows_why_a_call_was_refused(self, cluster: Cluster) -> None:
        call = (BUF, "curl", *PLAIN, "-H", "X-User-ID: 7", "-d", '{"text": " "}', f"http://{cluster.address('tweet')}/{CREATE}")
        status, _, complaints = await run(*call)
        assert status != 0
        error: dict[str, Any] = json.loads(complaints)
        assert (error["code"], error["message"]) == ("invalid_argument", "text must not be blank")
        # buf asks reflection for the types of messages, not of details: those it prints in base64.
        details = {detail["type"]: base64.b64decode(detail["value"] + "==") for detail in error["details"]}
        assert error_details_pb2.ErrorInfo.FromString(details["google.rpc.ErrorInfo"]).reason == "TEXT_BLANK"
        (violation,) = error_details_pb2.BadRequest.FromString(details["google.rpc.BadRequest"]).field_violations
        assert violation.field == "text"

    @pytest.mark.parametrize("process", SERVICES)
    async def test_asks_for_health(self, cluster: Cluster, process: str) -> None:
        for service in ("", *SERVICES[process]):
            data = json.dumps({"service": service})
            answer = await buf(cluster.address(process), "-d", data, "/grpc.health.v1.Health/Check")
            assert json.loads(answer) == {"status": "SERVING"}

    async def test_changes_a_setting_and_sees_what_waits(self, cluster: Cluster) -> None:
        ops = "/chirp.ops.v1.OpsService/"
        listed = json.loads(await buf(cluster.address("graph"), f"{ops}ListSettings"))
        assert {item["name"] for item in listed["items"]} == {"graph.pull_threshold", "graph.follow_limit"}
        data = '{"name": "graph.follow_limit", "value": "7500"}'
        assert json.loads(await buf(cluster.address("graph"), "-d", data, f"{ops}UpdateSetting"))["setting"]["value"] == "7500"
        waits = json.loads(await buf(cluster.address("relay"), f"{ops}ListBacklogs"))
        assert {item["name"] for item in waits["items"]} >= {"outbox.tweet", "outbox.graph", "outbox.user"}


@pytest.mark.parametrize("tool", ["curl", "buf"])
async def test_the_lines_that_up_prints_work(cluster: Cluster, tool: str) -> None:
    if not shutil.which("curl") and tool == "curl":
        pytest.skip("there is no curl here")
    user = await demo.ensure(cluster.address("user"))
    record = record_of(cluster)
    lines = [shlex.split(line) for line in summary.examples(record, user)]
    mine = [line[line.index(tool) :] for line in lines if tool in line[:3]]
    assert len(mine) == (3 if tool == "curl" else 2)
    for line in mine:
        status, out, complaints = await run(*(BUF if word == "buf" else word for word in line))
        assert status == 0, complaints
        assert ("grpc_server_handled_total" if line[-1].endswith("/metrics") else "Hello from chirp") in out


async def metrics(cluster: Cluster, process: str) -> dict[str, float]:
    """What a process shows: the sum over all labels, by sample name."""
    url = cluster.metrics(process)
    answer = await Client(int(url.rpartition(":")[2].partition("/")[0])).get("/metrics")
    assert answer.status == 200
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


QUESTIONS: dict[str, dict[str, Sequence[str]]] = {
    "how late is fan-out": {
        "fanout": ["chirp_timeline_fanout_lag_seconds_count", "chirp_timeline_fanout_lag_seconds_bucket"],
        "relay": ["chirp_outbox_lag_seconds_count"],
    },
    "what waits where": {
        "relay": ["chirp_outbox_waiting", "chirp_outbox_oldest_seconds"],
        "tweet": ["chirp_coalesce_waiting", "chirp_postgres_waiting", "chirp_runtime_calls_in_flight"],
        "timeline": ["chirp_redis_arrears", "chirp_runtime_calls_in_flight"],
        "fanout": ["chirp_consumer_waiting"],
    },
    "what missed the cache": {
        "timeline": ["chirp_timeline_window_reads_total", "chirp_timeline_tweets_fetched_total", "chirp_timeline_truth_pages_total",
                     "chirp_timeline_rebuild_seconds_count", "chirp_redis_unavailable_total"],
    },
    "what was retried": {
        "fanout": ["chirp_consumer_retried_total", "chirp_consumer_interrupted_total", "chirp_nats_reconnects_total"],
        "relay": ["chirp_outbox_failed_total", "chirp_nats_reconnects_total"],
        "tweet": ["chirp_tweet_replays_total", "chirp_postgres_retried_total", "chirp_fences_raised_again_total"],
    },
    "what died": {
        "fanout": ["chirp_consumer_dead_letters_total"],
        "relay": ["chirp_outbox_dead_letters_total", "chirp_postgres_lost_connections_total"],
        "timeline": ["chirp_timeline_skipped_items_total"],
    },
    "how many calls, how long, with what end": {
        name: ["grpc_server_started_total", "grpc_server_handled_total", "grpc_server_handling_seconds_bucket"]
        for name in ("id", "user", "graph", "tweet", "timeline")
    },
}  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS)
async def test_metrics_answer(cluster: Cluster, clients: Clients, question: str) -> None:
    author = await clients.user()
    await clients.user(author)
    await clients.post(author, "counted")
    await clients.home(author)
    for process, names in QUESTIONS[question].items():

        async def shown(process: str = process, names: Sequence[str] = names) -> bool:
            return set(names) <= (await metrics(cluster, process)).keys()

        await eventually(shown, timeout=15)


async def test_metrics_count_what_happens(cluster: Cluster, clients: Clients) -> None:
    author = await clients.user()
    reader = await clients.user(author)
    await clients.home(reader)
    before = {name: await metrics(cluster, name) for name in ("tweet", "timeline", "fanout", "relay")}

    def grown(after: dict[str, float], process: str, name: str) -> float:
        return after[name] - before[process].get(name, 0.0)

    for _ in range(2):
        await clients.post(author, "once", "key")
    await clients.drained()
    await clients.home(reader)
    tweet, timeline, fanout, relay = [await metrics(cluster, name) for name in before]
    assert grown(tweet, "tweet", "chirp_tweet_created_total") == 1
    assert grown(tweet, "tweet", "chirp_tweet_replays_total") == 1
    assert grown(timeline, "timeline", "chirp_timeline_window_reads_total") == 1
    assert grown(fanout, "fanout", "chirp_timeline_fanout_lag_seconds_count") == 1
    assert grown(fanout, "fanout", "chirp_timeline_pushes_total") == 1
    assert grown(relay, "relay", "chirp_outbox_published_total") >= 1
    gateway = await metrics(cluster, "gateway")
    assert any(name.startswith(("chirp_gateway", "http_")) for name in gateway), sorted(gateway)


async def test_metrics_name_the_consumers_for_whom_events_wait(cluster: Cluster) -> None:
    page = await Client(int(cluster.metrics("fanout").rpartition(":")[2].partition("/")[0])).get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(page.body.decode())}
    samples = families["chirp_consumer_waiting"].samples
    assert {sample.labels["consumer"] for sample in samples} == {"timeline-fanout", "timeline-pages"}
