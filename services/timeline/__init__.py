"""Home and user timelines: what a reader sees, newest first, to the very first tweet.

Owns: Redis lists `timeline:home:{<user_id>}` (rebuildable), Postgres schema `timeline` (fan-out progress), the work queue
`timeline.page.*`. Calls: graph (facts, followers), tweet (references, texts), user (names). Publishes nothing.
Consumes: `tweet.created.*`, `tweet.deleted.*` (fan-out worker); listens to `tweet.deleted.*` and `user.updated.*`.

How a home is read, module by module:
    home.py       the pipeline: look → facts → candidates → hydrate → visible → present
    window.py     the list in Redis: entries, sentinel, scripts          rebuild.py    the window made anew from the truth
    sources.py    pure: merging sources with floors, newest first       rules.py      pure: what a reader may see
    facts.py      whom the reader follows, checked by fence              recents.py    authors' latest tweets: own and pulled
    catalogue.py  tweets and authors as framed bytes                     pages.py, positions.py  filling a page; its tokens
How a tweet gets there:
    fanout.py     events → homes, in pages, in turn                      followers.py  followers of authors, checked by revision
    progress.py   how far each tweet has been delivered

Promises: a page in one round trip to Redis when everything is cached; the reader's own acts in the next read on any
replica; a deleted tweet to nobody from the next read on; Redis lost costs time, never an entry.
"""
