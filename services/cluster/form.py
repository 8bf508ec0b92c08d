"""Joins Redis nodes that somebody else started: `python -m services.cluster.form HOST:PORT …`; may be repeated."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence

from services.cluster.program import ClusterError
from services.cluster.redis_servers import Node, form


def main(addresses: Sequence[str]) -> int:
    """The exit status: 0 when the cluster is usable."""
    try:
        asyncio.run(form([_node(address) for address in addresses]))
    except (ClusterError, OSError) as problem:
        print(f"the Redis Cluster was not formed: {problem}", file=sys.stderr)
        return 1
    return 0


def _node(address: str) -> Node:
    # CLUSTER MEET takes numbers, not names.
    host, _, port = address.rpartition(":")
    return Node(socket.gethostbyname(host), int(port))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
