-- Who follows whom.
--
-- Each edge is kept twice, by follower and by followee. One table with two indexes would be half the rows, but a table has
-- one distribution column: with two tables each question (whom do I follow, who follows me, does a follow b) is answered by
-- one column of one table, so that distributing both is a step and not a rewrite. Both rows are written in one transaction.
-- No foreign keys: they would tie the ends of an edge to one node.
create schema graph;

create table graph.following (
    follower_id bigint not null,
    followee_id bigint not null,
    -- The follower's edge_revision when it was made: rises with every change of this edge, and orders the follower's list.
    revision bigint not null,
    follow_time timestamptz not null,
    primary key (follower_id, followee_id),
    constraint following_not_oneself check (follower_id <> followee_id)
);

create index following_latest on graph.following (follower_id, revision);

create table graph.followers (
    followee_id bigint not null,
    follower_id bigint not null,
    -- The followee's follower_revision when it was made: orders the followee's list.
    position bigint not null,
    follow_time timestamptz not null,
    primary key (followee_id, follower_id),
    constraint followers_not_oneself check (follower_id <> followee_id)
);

create index followers_latest on graph.followers (followee_id, position);

-- What is counted of a user, and the lock and version of all the user's edges: no edge changes without its two accounts.
-- Made with the first edge.
create table graph.account (
    user_id bigint primary key,
    follower_count bigint not null default 0 check (follower_count >= 0),
    following_count bigint not null default 0 check (following_count >= 0),
    -- Rises with every follow by the user.
    follow_revision bigint not null default 0,
    -- Rises with every follow and unfollow by the user, and with every request of the user's that is remembered.
    edge_revision bigint not null default 0,
    -- Rises with every follow and unfollow of the user.
    follower_revision bigint not null default 0
) with (fillfactor = 80);

-- Authors who had a tweet pulled, and when it was last so, to the hour.
create table graph.pull_author (
    author_id bigint primary key,
    last_pull_time timestamptz not null
);

create table graph.outbox (
    event_id bigint generated always as identity primary key,
    partition smallint not null,
    subject text not null,
    payload bytea not null,
    create_time timestamptz not null default clock_timestamp(),
    published_time timestamptz
);

create index outbox_waiting on graph.outbox (partition, event_id) where published_time is null;

create table graph.idempotency (
    actor_id bigint not null,
    request_id text not null,
    method text not null,
    payload_hash bytea not null,
    reply bytea not null,
    create_time timestamptz not null default clock_timestamp(),
    primary key (actor_id, request_id)
);

create index idempotency_age on graph.idempotency using brin (create_time);
