"""The tweet service: makes, serves and deletes tweets.

owns       schema `tweet`: tweet (with tombstones), idempotency, outbox; Redis fences `tweet:fence:{<author_id>}`
calls      id (ids), graph (delivery plans), user (whether authors exist)
publishes  tweet.created.<author_id>, tweet.deleted.<author_id>; announces deletions in the notices
SLO        99.9 % of CreateTweet under 50 ms at half load; an acknowledged tweet is never lost, a deleted one never served again

    service     the RPCs: who, valid, do, reply
    writer      commits tweets that wait together in one statement      remover    the same for deletions
    reader      reads by id that wait together are one query            recent     the newest of thousands of authors, exact
    store       all SQL, and the pools it runs on                       model      rows, and what is about to be one
    text        pure: twitter-text's rules (with text_grammar, tlds)    texts      what is wrong with a text, as callers are told
    authors     who is known to exist                                   batch      pure: equal keys within one batch
    events      what is announced and counted                           assembly   how the parts are put together

Reads go to the primary and are not cached here: readers that cache know from fences and notices when to ask again.
"""
