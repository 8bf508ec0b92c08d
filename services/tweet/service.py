"""The RPCs of the tweet service."""

import asyncio

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.tweet import v1 as tweetpb
from services.runtime.call import Call
from services.runtime.idempotency import payload_hash
from services.runtime.logs import Log
from services.tweet import recent, texts
from services.tweet.authors import Authors, unknown
from services.tweet.model import Draft, Removal, Stored, gone, not_found
from services.tweet.reader import Reader
from services.tweet.remover import Remover
from services.tweet.store import TweetStore
from services.tweet.text import Limits, analyse
from services.tweet.writer import Writer

DEFAULT_LIMIT = 100
"""Tweets that ListRecentByAuthors returns when not told."""


class TweetService:
    """Makes, serves and deletes tweets."""

    def __init__(
        self,
        store: TweetStore,
        reader: Reader,
        writer: Writer,
        remover: Remover,
        authors: Authors,
        limits: Limits,
        log: Log,
    ) -> None:
        """`limits` of a text."""
        self._store, self._reader, self._writer, self._remover = store, reader, writer, remover
        self._authors, self._limits, self._log = authors, limits, log

    async def create_tweet(self, request: tweetpb.CreateTweetRequest, call: Call) -> tweetpb.CreateTweetResponse:
        """Posts a tweet or a reply; idempotent by request_id in the scope of the caller."""
        draft = self._draft(call.viewer(), request)
        await self._authors.require(draft.actor_id)
        tweet = await self._writer.create(draft)
        return tweetpb.CreateTweetResponse(tweet=tweet.to_proto())

    async def batch_create_tweets(self, request: tweetpb.BatchCreateTweetsRequest, call: Call) -> tweetpb.BatchCreateTweetsResponse:
        """Posts for many authors, through the same committer; each item succeeds or fails alone."""
        existing = await self._authors.existing({item.author_id for item in request.tweets})
        items = await asyncio.gather(*(self._created(item, existing) for item in request.tweets))
        return tweetpb.BatchCreateTweetsResponse(items=items)

    async def validate_text(self, request: tweetpb.ValidateTextRequest, call: Call) -> tweetpb.ValidateTextResponse:
        """Says what is wrong with a text; a bad one is no error here."""
        analysis = analyse(request.text, self._limits)
        return tweetpb.ValidateTextResponse(
            valid=analysis.valid,
            weighted_length=analysis.text.weighted_length,
            max_weighted_length=self._limits.max_weighted_length,
            permillage=analysis.permillage,
            problems=texts.problems(analysis, self._limits),
            entities=texts.entities(analysis.text.entities),
        )

    async def get_tweet(self, request: tweetpb.GetTweetRequest, call: Call) -> tweetpb.GetTweetResponse:
        """One tweet."""
        tweet = (await self._reader.get([request.tweet_id])).get(request.tweet_id)
        if tweet is None:
            raise not_found(request.tweet_id)
        if tweet.deleted:
            raise gone(request.tweet_id)
        return tweetpb.GetTweetResponse(tweet=tweet.to_proto())

    async def batch_get_tweets(self, request: tweetpb.BatchGetTweetsRequest, call: Call) -> tweetpb.BatchGetTweetsResponse:
        """Many tweets, each with its own status, in the order asked for."""
        tweets = await self._reader.get(request.tweet_ids)
        items = [_record(tweet_id, tweets.get(tweet_id)) for tweet_id in request.tweet_ids]
        return tweetpb.BatchGetTweetsResponse(items=items)

    async def delete_tweet(self, request: tweetpb.DeleteTweetRequest, call: Call) -> tweetpb.DeleteTweetResponse:
        """Deletes the caller's tweet; idempotent with and without request_id."""
        digest = payload_hash("DeleteTweet", request) if request.request_id else b""
        removal = Removal(call.viewer(), request.tweet_id, request.request_id, digest)
        return tweetpb.DeleteTweetResponse(already_deleted=await self._remover.delete(removal))

    async def list_recent_by_authors(
        self, request: tweetpb.ListRecentByAuthorsRequest, call: Call
    ) -> tweetpb.ListRecentByAuthorsResponse:
        """The tweets of many authors as one list."""
        within = recent.Range.of(request.before_tweet_id, request.after_tweet_id)
        found = await recent.recent(self._store.recent, request.author_ids, within, request.limit or DEFAULT_LIMIT)
        items = [
            tweetpb.TweetReference(tweet_id=each[0], author_id=each[1], in_reply_to_user_id=each[2], pull=each[3]) for each in found
        ]
        return tweetpb.ListRecentByAuthorsResponse(items=items)

    async def healthy(self) -> bool:
        """Whether the database takes statements; without peers and Redis reads still work."""
        return await self._store.healthy()

    def _draft(self, author_id: int, request: tweetpb.CreateTweetRequest) -> Draft:
        """The tweet to commit; raises InvalidArgument for its text."""
        analysis = analyse(request.text, self._limits)
        if analysis.problems:
            raise texts.refusal(analysis, self._limits)
        return Draft(
            author_id,
            analysis.text.text,
            texts.packed_entities(analysis.text.entities),
            request.in_reply_to_tweet_id,
            request.request_id,
            payload_hash("CreateTweet", request) if request.request_id else b"",
        )

    async def _created(self, item: tweetpb.AuthoredTweet, existing: set[int]) -> tweetpb.CreatedTweet:
        """One tweet of a loader: its id, or the reason why there is none."""
        try:
            draft = self._draft(item.author_id, item.tweet)
            if item.author_id not in existing:
                raise unknown(item.author_id)
            return tweetpb.CreatedTweet(tweet_id=(await self._writer.create(draft)).tweet_id)
        except errors.ServiceError as error:
            return tweetpb.CreatedTweet(reason=errors.reason_name(error.reason))
        except Exception as error:
            self._log.error("a loader's tweet failed", author_id=item.author_id, exc_info=error)
            return tweetpb.CreatedTweet(reason=errors.reason_name(errorspb.ERROR_REASON_INTERNAL))


def _record(tweet_id: int, tweet: Stored | None) -> tweetpb.TweetRecord:
    if tweet is None:
        return tweetpb.TweetRecord(tweet_id=tweet_id, status=tweetpb.TWEET_STATUS_NOT_FOUND)
    if tweet.deleted:
        return tweetpb.TweetRecord(tweet_id=tweet_id, status=tweetpb.TWEET_STATUS_DELETED)
    return tweetpb.TweetRecord(tweet_id=tweet_id, status=tweetpb.TWEET_STATUS_FOUND, tweet=tweet.to_proto())
