"""The REST shim: HTTP and JSON outside, gRPC inside, driven by the google.api.http annotations of the contracts.

A request goes through `matcher` (which route), `headers` and `intake` (what was sent), `transcode` with `query` and `decode`
(into the request message), `backends` (the call), `encode` or `status` (the answer). `routes` builds the table at start from
any descriptors and refuses to start on an annotation it cannot serve; nothing here knows a single RPC of Chirp by name.
Knows the contracts and services.runtime, no service.
"""
