"""What timeline reports of its business: what missed the cache, how late fan-out is, what was skipped."""

from services.runtime.metrics import Metrics


class TimelineMetrics:
    """Counters of one process, bound once."""

    def __init__(self, metrics: Metrics) -> None:
        reads = metrics.counter("chirp_timeline_window_reads", "Home reads by what was found in the cache.", ["outcome"])
        self.hit, self.missing, self.outdated, self.unavailable = map(
            reads.labels, ("hit", "missing", "outdated", "unavailable"))  # fmt: skip
        self.below_window = metrics.counter("chirp_timeline_truth_pages", "Stretches read from the truth below a window.")
        self.rebuilt = metrics.histogram("chirp_timeline_rebuild_seconds", "Time to build a window anew.")
        self._skipped = metrics.counter("chirp_timeline_skipped_items", "Tweets left out because they could not be shown.")
        self._fetched = metrics.counter("chirp_timeline_tweets_fetched", "Tweets that were not in the process's memory.")
        pushes = metrics.counter("chirp_timeline_pushes", "Entries by what became of them.", ["outcome"])
        self.delivered, self.inactive, self.invalidated = map(pushes.labels, ("delivered", "inactive", "invalidated"))
        self.fanout_lag = metrics.histogram("chirp_timeline_fanout_lag_seconds", "From a tweet's id to the end of its delivery.")
        self.trimmed = metrics.counter("chirp_timeline_trims", "Windows cut back to their capacity.")

    def skipped(self, count: int) -> None:
        """Tweets or authors that could not be found."""
        if count:
            self._skipped.inc(count)

    def tweets_fetched(self, count: int) -> None:
        """Tweets asked of their owner."""
        self._fetched.inc(count)
