"""What every process of the cluster shares: start and stop, the gRPC server and channels, errors, backends.

A module lives here only when at least two processes use it; otherwise it stays with its owner. Nothing here imports a
service, knows a table of a service, or decides a product rule. Collaborators are passed to constructors; the
environment is read only in `config`.

Reading order: `process` runs a `main`, which builds a `server.Server` around handler tables (`handlers`, `methods`);
each call passes the chain of `interceptors` and reaches a service method with a `call.Call`; other services are reached
through `channel.connect`.

A process:
    process       start, signals, exit codes                         config        its variables, read once
    logs          JSON lines, or readable ones                       metrics       its registry and /metrics
    settings      what operators change while it runs                ops           what operators see and do
    health        whether it serves
Serving:
    server        the gRPC server, whole                             handlers      service objects as handler tables
    methods       one row per RPC, from its contract                 grpcdoor      gRPC's calls into guarded handlers
    guarded       a handler with its interceptors                    interceptors  what happens around every handler
    admission     how much is taken on at once                       validation    the field rules of the contracts
    viewer        who is asking                                      call          what a handler knows of its call
    paging        page sizes and sealed page tokens
Calling:
    channel       one channel per service, deadlines, errors         grpcsettings  every setting of grpc, both sides
    coalesce      those who wait together share one call             transient     which failures pass by themselves
Data:
    postgres      statements with deadlines, transactions            pool          its connections and their checks
    arrays        array parameters for `unnest`                      migrations    the schemas' SQL files, in order
    idempotency   a write repeated under its request_id              retention     old rows are deleted
    ids           what a Snowflake id tells                          nonces        values never used before
Events:
    outbox        events as rows of the write's transaction          outboxworker  one schema's outbox to JetStream
    relay         the process that runs those workers                publisher     many messages on the way at once
    jetstream     the NATS connection, the table of streams          consumer      the loop of a worker
    pulls         one pull request kept open                         deadletters   messages that can never succeed
Cache:
    rediscluster  the cluster behind one port                        redisroutes   slots, servers, MOVED and ASK
    redisnode     one server, with its breaker                       resp          the protocol, as bytes
    arrears       commands sent until they are answered              fences        read-your-writes on any replica
    notices       deletions and pulls, known from the next read on
Testing seams:
    clock         time as a collaborator; tests bring their own
"""
