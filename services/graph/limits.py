"""What operators change of the graph while it runs."""

from services.runtime.settings import Setting, whole

PULL_THRESHOLD = Setting(
    "graph.pull_threshold", 10_000, whole(1, 1_000_000_000), "followers from which on an author's tweets are pulled"
)
FOLLOW_LIMIT = Setting("graph.follow_limit", 7_500, whole(1, 1_000_000_000), "users that one user may follow")
