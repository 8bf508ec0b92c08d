"""Home and user timelines: what a reader sees, newest first, to the very first tweet.

Owns: Redis lists `timeline:home:{<user_id>}` (rebuildable), Postgres schema `timeline` (fan-out progress), the work queue
`timeline.page.*`. Calls: graph (facts, followers), tweet (references, texts), user (names). Publishes nothing.
Consumes: `tweet.created.*`, `tweet.deleted.*` (fan-out worker); listens to `tweet.deleted.*` and `user.updated.*`.

How a home is read, module by module:
    home.py       the pipeline: look → facts → candidates → hydrate → visible → present
    look.py       window, fences and latest notice in one round trip
    window.py     the list in Redis: entries, sentinel, scripts          rebuild.py    the window made anew from the truth
    sources.py    pure: merging sources with floors, newest first       rules.py      pure: what a reader may see
    facts.py      whom the reader follows, checked by fence              recents.py    authors' latest tweets: own and pulled
    catalogue.py  tweets and authors as framed bytes                     framing.py    pure: a page as a join of such bytes
    pages.py      filling a page, whatever list it comes from            positions.py  its tokens
How a tweet gets there:
    fanout.py     events → homes, in pages, in turn                      followers.py  followers of authors, checked by revision
    push.py       one tweet into many homes, or late ones dropped        progress.py   how far each tweet has been delivered
What else is asked:
    profile.py    one user's tweets, from the truth                      explain.py    why a tweet is, or is not, in a home
What they stand on:
    truth.py      the owners' RPCs, as this service's types              memory.py     what a process remembers, and drops
    generations.py  the bounded cache under it                           metrics.py    misses, delays, skips
    buckets.py    pure: follower counts too coarse to tell one by
The processes:
    service.py    the RPCs                                               assembly.py   how the parts are put together
    __main__.py   the timeline service                                   fanout_worker.py  the fan-out worker

Promises: a page in one round trip to Redis when everything is cached; the reader's own acts in the next read on any
replica; a deleted tweet to nobody from the next read on; Redis lost costs time, never an entry.
"""
