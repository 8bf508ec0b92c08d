"""What every process of the cluster shares: start and stop, the gRPC server and channels, errors, backends.

A module lives here only when at least two processes use it; otherwise it stays with its owner. Nothing here imports a
service, knows a table of a service, or decides a product rule. Collaborators are passed to constructors; the
environment is read only in `config`.

Reading order: `process` runs a `main`, which builds a `server.Server` around handler tables (`handlers`, `methods`);
each call passes the chain of `interceptors` and reaches a service method with a `call.Call`; other services are reached
through `channel.connect`.
"""
