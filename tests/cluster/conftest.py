"""Fixtures of the tests of the running cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.cluster.clients import Clients, open_clients
from tests.cluster.doors import Door, Grpc, Rest
from tests.conftest import Cluster
from tests.gateway.client import Client


@pytest.fixture(scope="module")
async def clients(cluster: Cluster) -> AsyncIterator[Clients]:
    """Stubs to every process."""
    async with open_clients(cluster) as clients:
        yield clients


@pytest.fixture(params=["grpc", "rest"])
def door(request: pytest.FixtureRequest, cluster: Cluster) -> Door:
    """Each way into the cluster in turn."""
    return Grpc(cluster) if request.param == "grpc" else Rest(cluster)


@pytest.fixture
def rest(cluster: Cluster) -> Client:
    """The REST shim, to which anything can be sent."""
    return Client(cluster.machine.instance("gateway").http_port)
