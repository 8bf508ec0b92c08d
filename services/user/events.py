"""What happened to accounts: the rows for the outbox and the counters."""

from collections.abc import Sequence

from chirp.user import v1 as userpb
from services.runtime.clock import Clock
from services.runtime.metrics import Metrics
from services.runtime.outbox import Event, event
from services.user.model import Account


class UserEvents:
    """Makes the events and counts what was committed."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._clock = clock
        self._created = metrics.counter("chirp_user_created", "Accounts registered.")
        self._taken = metrics.counter("chirp_user_username_taken", "Registrations refused for their username.")
        self._updated = metrics.counter("chirp_user_updated", "Profiles changed.")

    def created(self, accounts: Sequence[Account]) -> list[Event]:
        """One event per account, in order."""
        return [self._event("created", each, userpb.UserCreated(user=each.to_proto())) for each in accounts]

    def updated(self, account: Account) -> Event:
        """The event of a changed profile."""
        return self._event("updated", account, userpb.UserUpdated(user=account.to_proto()))

    def count_created(self, created: int, taken: int) -> None:
        """After COMMIT."""
        self._created.inc(created)
        self._taken.inc(taken)

    def count_updated(self) -> None:
        """After COMMIT."""
        self._updated.inc()

    def _event(self, fact: str, account: Account, message: userpb.UserCreated | userpb.UserUpdated) -> Event:
        message.occur_time.FromMilliseconds(self._clock.now_ms())
        return event(f"user.{fact}.{account.user_id}", account.user_id, message.SerializeToString())
