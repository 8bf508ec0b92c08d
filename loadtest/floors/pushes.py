"""What Redis takes at most: `python -m loadtest.floors.pushes HOST:PORT SECONDS`, keys on standard input, one a line.

The same bytes as fan-out sends (LPUSHX of an 18-digit id to every key), built once and blasted over a plain socket in
pipelines of 100; replies are counted and not looked at. Stands in for `redis-benchmark -P 100` where that is not installed,
and works on the very lists that fan-out pushes to. Prints pushes per second.
"""

import socket
import sys
import time

PIPELINE = 100
VALUE = b"382120579974561810"


def batches(keys: list[bytes]) -> list[tuple[bytes, int]]:
    """Pipelines with the number of their replies."""
    commands = [b"*3\r\n$6\r\nLPUSHX\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(VALUE), VALUE) for key in keys]
    return [
        (b"".join(commands[first : first + PIPELINE]), len(commands[first : first + PIPELINE]))
        for first in range(0, len(commands), PIPELINE)
    ]


def blast(address: str, keys: list[bytes], seconds: float) -> float:
    """Four connections' worth of pipelines kept on the way over one socket."""
    host, port = address.rsplit(":", 1)
    prepared = batches(keys)
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        done, owed, at = 0, 0, 0
        began = time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds or owed:
            while owed < 8 * PIPELINE and spent < seconds:
                payload, count = prepared[at]
                connection.sendall(payload)
                owed += count
                at = (at + 1) % len(prepared)
            answered = connection.recv(65536).count(b"\n")
            owed -= answered
            done += answered
        return done / (time.perf_counter() - began)


if __name__ == "__main__":
    print(blast(sys.argv[1], [line.strip().encode() for line in sys.stdin], float(sys.argv[2])))
