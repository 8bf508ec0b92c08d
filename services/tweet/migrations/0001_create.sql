-- Tweets, the callers' keys for their writes, and the events about to be announced.
-- No foreign keys: tweet and outbox are to be distributed one day, tweets by tweet_id and an author's list by author_id.

create schema tweet;

create table tweet.tweet (
    tweet_id bigint primary key,
    author_id bigint not null,
    in_reply_to_tweet_id bigint not null default 0,
    in_reply_to_user_id bigint not null default 0,
    conversation_id bigint not null,
    create_time timestamptz not null,
    delete_time timestamptz,
    kind smallint not null,
    pull boolean not null,
    text text,
    -- The serialised repeated field chirp.tweet.v1.Tweet.entities, spliced into replies as it is.
    entities bytea,
    -- A tombstone keeps who and where, never what.
    constraint tombstone_has_no_text check ((delete_time is null) = (text is not null and entities is not null))
) with (
    -- Lists of recent tweets are index-only scans where pages are known to be all-visible: vacuum little and often.
    autovacuum_vacuum_insert_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.01,
    -- One tweet in a hundred deleted is soon enough: a dead entry costs a list one heap visit.
    autovacuum_vacuum_scale_factor = 0.01
);

-- Read backwards for the newest. Both ascending, so that a range of (author_id, tweet_id) is a range of the index.
create index tweet_by_author on tweet.tweet (author_id, tweet_id)
    include (in_reply_to_user_id, pull) where delete_time is null;

create table tweet.idempotency (
    actor_id bigint not null,
    request_id text collate "C" not null,
    -- Of the method and its payload: a key used again with anything else is refused.
    payload_hash bytea not null,
    tweet_id bigint not null,
    -- What DeleteTweet answered first.
    already_deleted boolean not null default false,
    -- Each replay commits anew, so that a synchronous standby has the first commit before it is acknowledged again.
    replays integer not null default 0,
    create_time timestamptz not null default clock_timestamp(),
    primary key (actor_id, request_id)
);

-- The relay deletes keys after a week: no caller repeats a request that late.
create index idempotency_age on tweet.idempotency using brin (create_time);

create table tweet.outbox (
    event_id bigint generated always as identity primary key,
    partition smallint not null,
    subject text not null,
    payload bytea not null,
    create_time timestamptz not null default clock_timestamp(),
    published_time timestamptz
);

create index outbox_waiting on tweet.outbox (partition, event_id) where published_time is null;
