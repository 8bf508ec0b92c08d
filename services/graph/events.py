"""What happened to the graph: the rows for the outbox and the counters."""

from google.protobuf.timestamp_pb2 import Timestamp

from chirp.graph import v1 as graphpb
from services.runtime.metrics import Metrics
from services.runtime.outbox import Event, event


def followed(follower_id: int, followee_id: int, revision: int, now: Timestamp) -> Event:
    """An edge was made."""
    message = graphpb.Followed(follower_id=follower_id, followee_id=followee_id, revision=revision, occur_time=now)
    return event(f"graph.followed.{follower_id}", follower_id, message.SerializeToString())


def unfollowed(follower_id: int, followee_id: int, revision: int, now: Timestamp) -> Event:
    """An edge was ended."""
    message = graphpb.Unfollowed(follower_id=follower_id, followee_id=followee_id, revision=revision, occur_time=now)
    return event(f"graph.unfollowed.{follower_id}", follower_id, message.SerializeToString())


class GraphCounters:
    """Counts what was committed."""

    def __init__(self, metrics: Metrics) -> None:
        self._followed = metrics.counter("chirp_graph_followed", "Edges made.")
        self._unfollowed = metrics.counter("chirp_graph_unfollowed", "Edges ended.")
        self._refused = metrics.counter("chirp_graph_follow_limit", "Follows refused for the limit.")
        self._pulled = metrics.counter("chirp_graph_pull_authors", "Authors who began, or began again, to be pulled.")

    def count_edges(self, made: int, ended: int, refused: int) -> None:
        """After COMMIT."""
        self._followed.inc(made)
        self._unfollowed.inc(ended)
        self._refused.inc(refused)

    def count_pulled(self, authors: int) -> None:
        """After COMMIT."""
        self._pulled.inc(authors)
