"""The id service: Snowflake ids, unique in the cluster and ordered by time.

owns       schema `id`: worker_lease, one row per worker id
calls      nobody
publishes  nothing
SLO        99.9 % of GenerateIds under 5 ms; never the same id twice, whatever clocks, crashes and pauses do

    snowflake    pure: the bit layout, and the sequence of one worker
    generator    ids while a grant lasts: the only place where one is issued
    lease        keeps a worker id leased and its mark ahead of the clock
    store        the leases in Postgres

An id is issued only in a millisecond above the mark that its worker's row had when it was leased, and not above the
mark that it has now. Marks only rise, under the row's lock, and only for the row's owner: so two holders of one worker
id, which a stopped process or a clock that was set can bring about, never share a millisecond.
"""
