"""The user service: accounts and profiles.

owns       schema `user`: users, outbox, idempotency; Redis keys user:fence:{<user_id>}
calls      id (an id for each new account)
publishes  user.created.<user_id>, user.updated.<user_id>
SLO        99.9 % of reads under 50 ms, of registrations under 200 ms; an acknowledged registration is never lost

    model        pure: an account, what may be changed of it, what text is refused
    store        every SQL statement; reads that wait together are one SELECT
    events       the outbox rows and the counters of what happened
    service      the RPCs
"""
