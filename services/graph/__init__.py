"""The graph service: who follows whom.

owns       schema `graph`: following, followers, account (counts and revisions), pull_author, outbox, idempotency;
           Redis keys graph:fence:{<user_id>}; notices of authors who are pulled
calls      user (does who is to be followed exist; summaries for lists)
publishes  graph.followed.<follower_id>, graph.unfollowed.<follower_id>
SLO        99.9 % of reads under 50 ms, of follows under 200 ms; the next read of whoever followed shows it

    changes      pure: what a batch of wishes makes of accounts and edges, in turn
    snapshot     what a batch is decided on, read in one statement
    edges        commits all follows that wait together, if nobody else was quicker
    store        every read, and the marks of pull authors; reads of accounts that wait together are one SELECT
    delivery     push or pull, decided before a tweet is made
    people       which users exist, and how they are shown in lists
    limits       the settings that operators change at run time
    events       the outbox rows and the counters of what happened
    service      the RPCs

Revisions. Each account counts its own follows and unfollows (`edge_revision`) and those of it (`follower_revision`). Both
are raised by the statement that writes the edge, provided that they still are what it was decided on. So the first orders
all that ever happened to an edge, whatever order its events arrive in, and both tell the order of follows in lists; the
second tells fan-out whether the followers that it remembers are still the followers.
"""
