"""The health check of a container: `python -m services.cluster.healthcheck HOST:PORT [PATH]`; status 0 means healthy.

Without a path it asks the gRPC health service, with one it does an HTTP GET.
"""

from __future__ import annotations

import asyncio
import sys

from services.cluster import probes


def main(address: str, path: str = "") -> int:
    """The exit status for the process at that address."""
    host, _, port = address.rpartition(":")
    healthy = asyncio.run(probes.http_ok(host, int(port), path) if path else probes.grpc_serving(address))
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
