"""Structured logs: JSON lines in production, readable lines on a terminal, ours and the libraries' alike."""

import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO, TypeAlias

import orjson
import structlog
from structlog.typing import FilteringBoundLogger, Processor

from services.runtime.clock import Clock
from services.runtime.config import LogConfig

Log: TypeAlias = FilteringBoundLogger
"""What constructors take: `log.warning("relay fell behind", waiting=12)`."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_SHARED: tuple[Processor, ...] = (
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
)


def configure(config: LogConfig, process: str, stream: TextIO | None = None) -> Log:
    """Sets up the logging of this process, once, and returns its logger; lines go to standard error unless told otherwise."""
    chosen = stream or sys.stderr
    _configure_libraries(config, process, chosen)
    return logger(config, process, chosen)


def logger(config: LogConfig, process: str, stream: TextIO) -> Log:
    """A logger of its own, without touching the logging of the process: what a test takes."""
    wrapper = structlog.make_filtering_bound_logger(_LEVELS[config.level])
    made: Log = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[*_SHARED, _renderer(config)],
        wrapper_class=wrapper,
        cache_logger_on_first_use=True,
    )
    return made.bind(service=process)


def silent() -> Log:
    """A logger that writes nothing."""
    made: Log = structlog.wrap_logger(
        structlog.ReturnLogger(),
        processors=[_drop],
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
    )
    return made


def _drop(_: Any, __: str, ___: Any) -> Any:
    raise structlog.DropEvent


class LineLimit:
    """Lets through so many lines a second, so that logging refusals does not become the load."""

    def __init__(self, clock: Clock, per_second: int = 50) -> None:
        """`per_second` lines in each second of the clock's monotonic()."""
        self._clock, self._per_second = clock, per_second
        self._second, self._written, self._dropped = 0, 0, 0

    def admit(self) -> int | None:
        """None: do not write. Otherwise the number of lines withheld since the last one written."""
        second = int(self._clock.monotonic())
        if second != self._second:
            self._second, self._written = second, 0
        if self._written >= self._per_second:
            self._dropped += 1
            return None
        self._written += 1
        dropped, self._dropped = self._dropped, 0
        return dropped


def _renderer(config: LogConfig) -> Processor:
    if config.form == "json":
        return structlog.processors.JSONRenderer(serializer=_json)
    return structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback)


def _json(line: Any, default: Callable[[Any], Any] | None = None, **_: Any) -> str:
    return orjson.dumps(line, default=default or str).decode()


def _configure_libraries(config: LogConfig, process: str, stream: TextIO) -> None:
    """Lines of libraries, from warning up unless the level is debug, in the same form."""

    def name(_: Any, __: str, line: Any) -> Any:
        return {**line, "service": process}

    handler = logging.StreamHandler(stream)
    final: tuple[Processor, ...] = (structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(config))
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=[name, *_SHARED], processors=final))
    handler.addFilter(_worth_a_line)
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if config.level == "debug" else logging.WARNING, force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _worth_a_line(record: logging.LogRecord) -> bool:
    """grpc.aio's poller reports a harmless race through the loop's exception handler (grpc #25364)."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, BlockingIOError) and "PollerCompletionQueue._handle_events" in record.getMessage())
