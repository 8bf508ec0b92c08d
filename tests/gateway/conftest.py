"""A gateway in front of a zoo, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.gateway.zookeeper import Zoo
from tests.gateway.zookeeper import zoo as running_zoo


@pytest.fixture(scope="module")
async def zoo(free_port: Callable[[], int]) -> AsyncIterator[Zoo]:
    """A running zoo behind a gateway in header mode."""
    async with running_zoo(free_port) as made:
        yield made
