"""Log lines: one form for ours and the libraries', nothing written below the level."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from services.runtime import logs
from services.runtime.config import LogConfig


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leaves the logging of the test run as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield
    root.handlers = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_ours_and_the_libraries_lines_have_one_form() -> None:
    stream = io.StringIO()
    log = logs.configure(LogConfig("json", "info", 0), "tweet", stream)

    log.info("posted", tweet_id=2**60, raw=b"\x01")
    log.debug("not written")
    logging.getLogger("some.library").warning("reconnecting %s", "now")
    logging.getLogger("some.library").info("not written")

    ours, theirs = lines(stream)
    assert (ours["event"], ours["service"], ours["level"], ours["tweet_id"]) == ("posted", "tweet", "info", 2**60)
    assert (theirs["event"], theirs["service"], theirs["level"]) == ("reconnecting now", "tweet", "warning")
    assert ours.keys() - {"tweet_id", "raw"} == theirs.keys()


def test_an_exception_is_one_line_of_json() -> None:
    stream = io.StringIO()
    log = logs.logger(LogConfig("json", "error", 0), "tweet", stream)
    try:
        raise ValueError("in\nside")
    except ValueError as error:
        log.error("failed", exc_info=error)

    assert "ValueError: in\nside" in str(lines(stream)[0]["exception"])


def test_the_console_form_is_readable() -> None:
    stream = io.StringIO()
    logs.configure(LogConfig("console", "info", 0), "tweet", stream).warning("slow", ms=12)

    assert "slow" in stream.getvalue()
    assert "ms=12" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_the_pollers_harmless_complaint_is_left_out() -> None:
    stream = io.StringIO()
    logs.configure(LogConfig("json", "info", 0), "tweet", stream)
    asyncio_log = logging.getLogger("asyncio")
    harmless = BlockingIOError(11, "Resource temporarily unavailable")

    asyncio_log.error("Exception in callback PollerCompletionQueue._handle_events(<uvloop>)", exc_info=harmless)
    asyncio_log.error("Exception in callback something_else()", exc_info=harmless)

    assert [line["event"] for line in lines(stream)] == ["Exception in callback something_else()"]


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    logs.silent().bind(a=1).critical("nobody hears this")
    assert capsys.readouterr() == ("", "")
