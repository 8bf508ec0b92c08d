"""Cross-origin requests: any web page may call the API, without credentials of the browser.

Identity travels in the Authorization header, which a page must have been given; never in cookies. X-User-ID, the identity of
development mode, is not offered: otherwise any page could act as anybody at a developer's gateway.
"""

ANSWER: list[tuple[bytes, bytes]] = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"x-request-id, retry-after, traceparent"),
]
"""Headers of every answer to a request that names an origin."""
_OFFERED = b"authorization, content-type, idempotency-key, x-request-id, grpc-timeout, traceparent, tracestate"
_REMEMBERED = b"600"


def preflight(methods: str) -> list[tuple[bytes, bytes]]:
    """Further headers of the answer to a preflight, for a path with these methods."""
    return [
        (b"access-control-allow-methods", methods.encode("ascii")),
        (b"access-control-allow-headers", _OFFERED),
        (b"access-control-max-age", _REMEMBERED),
    ]
