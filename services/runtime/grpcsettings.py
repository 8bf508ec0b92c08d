"""Every setting of grpc on both sides, with its reason; no default is trusted, and a test pins the values."""

from collections.abc import Iterable
from typing import Any

from services.runtime.health import REPLICA
from services.runtime.methods import Method

LARGEST_MESSAGE = 4 * 1024 * 1024
LARGEST_METADATA = 8 * 1024
SERVER_ARGUMENTS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),  # the largest contract is a loader's batch of 1,000 tweets
    ("grpc.max_send_message_length", LARGEST_MESSAGE),  # fails here, with a clear error, and not at the client
    ("grpc.max_metadata_size", LARGEST_METADATA),
    ("grpc.absolute_max_metadata_size", 2 * LARGEST_METADATA),
    ("grpc.max_concurrent_streams", 10_000),  # per connection; admission refuses long before
    ("grpc.keepalive_time_ms", 20_000),  # finds peers that vanished while a stream is open
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),  # without, the pings of a client that has no call in progress count as strikes
    (
        "grpc.http2.min_ping_interval_without_data_ms",
        5_000,
    ),  # our clients ping every 10 s; the default of 5 min drops them
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.max_connection_age_ms", 600_000),  # so that clients find new replicas, and long streams move
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.so_reuseport", 0),  # a second process on the port is a mistake that must show
    ("grpc.enable_channelz", 1),
    ("grpc.default_compression_algorithm", 0),  # CPU is dearer than the network here
)
CHANNEL_ARGUMENTS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
    ("grpc.max_metadata_size", LARGEST_METADATA),
    ("grpc.absolute_max_metadata_size", 2 * LARGEST_METADATA),
    (
        "grpc.keepalive_time_ms",
        10_000,
    ),  # a frozen or partitioned replica is noticed in 13 s; without, only deadlines help
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # is also the time a connection attempt gets
    ("grpc.max_reconnect_backoff_ms", 2_000),  # a replica that is back is used again within about two seconds
    ("grpc.enable_retries", 1),  # what is retried the service config says
    ("grpc.service_config_disable_resolution", 1),  # the service config is ours, not a TXT record's
    ("grpc.enable_http_proxy", 0),  # an http_proxy in the environment is not meant for the cluster
    ("grpc.inhibit_health_checking", 0),  # a replica that is about to stop gets no new calls
    ("grpc.use_local_subchannel_pool", 1),  # no connection shared with a channel that was given other settings
    ("grpc.default_compression_algorithm", 0),
)
RETRY_POLICY = {
    "maxAttempts": 3,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
RETRY_THROTTLING = {"maxTokens": 10, "tokenRatio": 0.1}
"""Half of the tokens gone (five failures, or ten calls of which one in ten fails) and nothing is retried: no retry storm."""


def service_config(retried: Iterable[Method]) -> dict[str, Any]:
    """gRPC's service config: all replicas in turn, except those that are stopping; the idempotent ones of `retried` are
    repeated.
    """
    names = [{"service": method.service, "method": method.name} for method in retried if method.idempotent]
    config: dict[str, Any] = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": REPLICA},
    }
    if names:
        config["methodConfig"] = [{"name": names, "waitForReady": False, "retryPolicy": RETRY_POLICY}]
        config["retryThrottling"] = RETRY_THROTTLING
    return config
