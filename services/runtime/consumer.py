"""The loop of a worker: messages of a durable JetStream consumer, handled in batches, each acknowledged after its effect.

Delivery is at least once and order is not promised after a failure: handlers are idempotent and order-tolerant.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import nats.errors
from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy, ReplayPolicy

from chirp import errors
from chirp.errors import v1 as errorspb
from services.runtime.deadletters import Condemned, DeadLetters
from services.runtime.jetstream import MESSAGE_ID, Nats
from services.runtime.metrics import Metrics
from services.runtime.pulls import Interrupted, Pull
from services.runtime.transient import transient


class Retry(Exception):
    """Raised, or returned for one message: not now, again in `delay` seconds. Never leads to a dead letter."""

    def __init__(self, delay: float) -> None:
        super().__init__(f"again in {delay} s")
        self.delay = delay


class PermanentFailure(Exception):
    """Raised, or returned for one message: it can never succeed. `reason` in a few words that operators may group by."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Stuck(Exception):
    """Messages wait and none arrives, whatever was tried: the process should exit and be started again."""


class Message:
    """One delivery. `event_id` is the same for every copy and replay of an event: the key of idempotency."""

    __slots__ = ("data", "deliveries", "event_id", "headers", "message_id", "reply", "sequence", "stream", "subject")

    def __init__(self, message: Msg) -> None:
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>, or with
        # domain and account in front of the stream.
        tokens = message.reply.split(".")
        at = 2 if len(tokens) == 9 else 4
        self.subject, self.data, self.reply = message.subject, message.data, message.reply
        self.stream = tokens[at]
        self.deliveries = int(tokens[at + 2])
        self.sequence = int(tokens[at + 3])
        self.headers: dict[str, str] = message.headers or {}
        self.message_id = self.headers.get(MESSAGE_ID) or f"{self.stream}:{self.sequence}"
        self.event_id = ":".join(self.message_id.split(":", 2)[:2])


Outcome = Exception | None
"""None: done. Retry, PermanentFailure or any other exception: failed, as if it had been raised for this one alone."""
Handler = Callable[[list[Message]], Awaitable[Sequence[Outcome] | None]]
"""Gets 1 to `batch` messages; None means that all are done. What it raises concerns all of them: on a failure that is
not transient each is then handled alone, so that one poisonous message does not condemn its neighbours."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a consumer behaves. Times in seconds."""

    batch: int = 256
    ack_wait: float = 30.0
    heartbeat: float = 10.0
    """While a batch is being handled the server is told so this often; a third of ack_wait."""
    max_ack_pending: int = 4096
    failures: int = 5
    """Failures of one message, other than transient ones, until it becomes a dead letter."""
    expires: float = 5.0
    """Life of one pull request; it bounds how long an orphaned one can catch messages."""
    retry_first: float = 0.1
    retry_most: float = 5.0
    patience: float = 300.0
    """For one batch; a handler that takes longer hangs, and only a new process helps."""
    rebind_after: float = 15.0
    """Of silence while messages wait, before a new binding is tried."""
    stuck_after: float = 60.0
    """Of the same, before the process is better started again."""


DEFAULTS = Settings()
_FAILURES_KEPT = 10_000


class Consumer:
    """A durable consumer of one stream. Replicas of a process share its messages."""

    def __init__(
        self,
        nats: Nats,
        stream: str,
        durable: str,
        subjects: Sequence[str],
        dead_letters: DeadLetters,
        metrics: Metrics,
        *,
        settings: Settings = DEFAULTS,
    ) -> None:
        """`durable`: the name under which the server remembers what was acknowledged, such as "timeline-fanout".

        `subjects`: empty for all of the stream, which is much cheaper than naming them: to find the next message of several
        filters the server searches all subjects of the stream, one or two per user.
        """
        self._nats, self._stream, self.durable, self._subjects = nats, stream, durable, list(subjects)
        self._dead_letters, self._settings = dead_letters, settings
        self._in_hand: list[Message] = []
        self._failures: dict[str, int] = {}
        self._stopping = False
        self._pull: Pull | None = None
        self._progress = time.monotonic()
        self._metrics = _Metrics(metrics, durable)

    def config(self) -> ConsumerConfig:
        """Every setting of the consumer at the server. How often a message is tried is our decision, not its."""
        return ConsumerConfig(
            name=self.durable,
            durable_name=self.durable,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            replay_policy=ReplayPolicy.INSTANT,
            ack_wait=self._settings.ack_wait,
            max_deliver=-1,
            max_ack_pending=self._settings.max_ack_pending,
            filter_subjects=self._subjects or None,
        )

    async def run(self, handle: Handler) -> None:
        """Consumes until `stop` or cancellation, through every absence of NATS. Raises Stuck if nothing helps."""
        heartbeat = asyncio.create_task(self._heartbeat_for_ever())
        failed = 0
        try:
            while not self._stopping:
                try:
                    await self._bound(handle)
                    failed = 0
                except (Interrupted, nats.errors.Error, OSError):
                    self._metrics.interrupted.inc()
                    self._progress = time.monotonic()
                    failed += 1
                    await asyncio.sleep(min(0.1 * 2**failed, 2.0) * random.uniform(0.5, 1.0))
        finally:
            heartbeat.cancel()

    def stop(self) -> None:
        """Has `run` return after the batch in hand; what was received and not begun goes to other replicas at once."""
        self._stopping = True

    async def info(self) -> ConsumerInfo:
        """What the server knows of the consumer."""
        return await self._nats.js.consumer_info(self._stream, self.durable)

    async def drained(self, timeout: float = 10.0) -> None:
        """Waits until every message of the stream has been handled; raises TimeoutError. For tests and orderly stops."""
        async with asyncio.timeout(timeout):
            while True:
                info = await self.info()
                if not info.num_pending and not info.num_ack_pending:
                    return
                await asyncio.sleep(0.02)

    async def _bound(self, handle: Handler) -> None:
        """One binding to the server: ends when it is stopped or when a new one may do better."""
        await self._nats.js.add_consumer(self._stream, self.config())
        settings = self._settings
        async with Pull(self._nats, self._stream, self.durable, settings.batch, settings.expires) as pull:
            self._pull = pull
            try:
                while not self._stopping:
                    if received := await pull.take():
                        await self._work([Message(each) for each in received], handle)
                    elif await self._overlooked():
                        return
            finally:
                await self._give_back()

    async def _work(self, messages: list[Message], handle: Handler) -> None:
        self._in_hand = messages
        started = self._progress = time.monotonic()
        outcomes = await self._outcomes(messages, handle)
        for message, outcome in zip(messages, outcomes, strict=True):
            await self._settle(message, outcome)
        self._in_hand = []
        self._metrics.handled.inc(len(messages))
        self._progress = time.monotonic()
        self._metrics.seconds.observe(self._progress - started)

    async def _outcomes(self, messages: list[Message], handle: Handler) -> Sequence[Outcome]:
        found = await self._attempt(messages, handle)
        if not isinstance(found, Exception):
            return found
        if len(messages) == 1 or isinstance(found, Retry) or transient(found):
            return [found] * len(messages)
        return [(await self._outcomes([message], handle))[0] for message in messages]

    async def _attempt(self, messages: list[Message], handle: Handler) -> Sequence[Outcome] | Exception:
        patience = asyncio.timeout(self._settings.patience)
        try:
            async with patience:
                found = await handle(messages)
        except Exception as error:
            if patience.expired():
                raise Stuck(f"{self.durable}: a batch took longer than {self._settings.patience} s") from error
            return error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            return errors.Unavailable(errorspb.ERROR_REASON_UNAVAILABLE, "the work was cancelled from below")
        if found is None:
            return [None] * len(messages)
        if len(found) != len(messages):
            return RuntimeError(f"{self.durable}: {len(found)} outcomes for {len(messages)} messages")
        return found

    async def _settle(self, message: Message, outcome: Outcome) -> None:
        if outcome is None:
            self._failures.pop(message.message_id, None)
            await self._reply(message, b"")
        elif reason := self._condemned(message, outcome):
            await self._condemn(message, outcome, reason)
        else:
            await self._again(message, outcome.delay if isinstance(outcome, Retry) else self._backoff(message))

    def _condemned(self, message: Message, outcome: Exception) -> str:
        """Why the message can never succeed; empty while it may."""
        if isinstance(outcome, PermanentFailure):
            return outcome.reason
        if isinstance(outcome, DecodeError):
            return "undecodable"
        if isinstance(outcome, Retry) or transient(outcome):
            return ""
        if len(self._failures) > _FAILURES_KEPT:
            self._failures.clear()
        failures = self._failures[message.message_id] = self._failures.get(message.message_id, 0) + 1
        return "failed repeatedly" if failures >= self._settings.failures else ""

    async def _condemn(self, message: Message, outcome: Exception, reason: str) -> None:
        """The row first, then the message: a crash between the two brings it again, and the row stays one."""
        try:
            await self._dead_letters.put(_letter(self.durable, message, outcome, reason))
        except Exception:
            await self._again(message, self._backoff(message))
            return
        self._metrics.condemned.inc()
        self._failures.pop(message.message_id, None)
        await self._reply(message, b"+TERM")

    async def _again(self, message: Message, delay: float) -> None:
        self._metrics.retried.inc()
        await self._reply(message, b'-NAK {"delay": %d}' % max(int(delay * 1e9), 1))

    def _backoff(self, message: Message) -> float:
        first, most = self._settings.retry_first, self._settings.retry_most
        return min(first * 2 ** min(message.deliveries - 1, 20), most) * random.uniform(0.5, 1.0)

    async def _reply(self, message: Message | Msg, answer: bytes) -> None:
        """Fire and forget: an answer that is lost means another delivery, which handlers bear."""
        await self._nats.client.publish(message.reply, answer)

    async def _give_back(self) -> None:
        """Has what will not be handled here delivered again at once, if it can still be said."""
        held: list[Message | Msg] = [*self._in_hand, *(self._pull.buffer if self._pull else ())]
        self._in_hand, self._pull = [], None
        if self._nats.connected:
            for message in held:
                await self._reply(message, b"-NAK")

    async def _heartbeat_for_ever(self) -> None:
        """Tells the server that what is held is being worked on, so that long batches are not delivered twice."""
        while True:
            await asyncio.sleep(self._settings.heartbeat)
            if self._nats.connected:
                for message in [*self._in_hand, *(self._pull.buffer if self._pull else ())]:
                    await self._reply(message, b"+WPI")

    async def _overlooked(self) -> bool:
        """Whether messages wait but do not come, for so long that a new binding is due; raises Stuck if even longer."""
        silence = time.monotonic() - self._progress
        if silence < self._settings.rebind_after:
            return False
        info = await self.info()
        if not info.num_pending or (info.num_ack_pending or 0) >= self._settings.max_ack_pending:
            self._progress = time.monotonic()
            return False
        if silence > self._settings.stuck_after:
            raise Stuck(f"{self.durable}: {info.num_pending} messages wait and none came for {silence:.0f} s")
        return True


class _Metrics:
    """What happens to the messages of one consumer, its label bound."""

    def __init__(self, metrics: Metrics, durable: str) -> None:
        name, counter = ("consumer",), metrics.counter
        self.handled = counter("chirp_consumer_handled", "Deliveries handled", name).labels(durable)
        self.retried = counter("chirp_consumer_retried", "Deliveries to be repeated", name).labels(durable)
        self.condemned = counter("chirp_consumer_dead_letters", "Messages given up", name).labels(durable)
        self.interrupted = counter("chirp_consumer_interrupted", "Bindings lost", name).labels(durable)
        self.seconds = metrics.histogram("chirp_consumer_batch_seconds", "Time of a batch", name).labels(durable)


def _letter(consumer: str, message: Message, outcome: Exception, reason: str) -> Condemned:
    return Condemned(
        consumer=consumer,
        stream=message.stream,
        subject=message.subject,
        message_id=message.message_id,
        event_id=message.event_id,
        payload=message.data,
        headers=message.headers,
        reason=reason,
        error=repr(outcome),
        deliveries=message.deliveries,
    )
