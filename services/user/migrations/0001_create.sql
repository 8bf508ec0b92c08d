-- Accounts and profiles. Distributable by user_id but for the unique username, which is a table of its own then.
create schema "user";

create table "user".users (
    user_id bigint primary key,
    -- As it was written.
    username text not null,
    -- Casefolded: unique whatever the case of its letters.
    username_key text not null unique,
    -- Empty: the username is shown.
    display_name text not null,
    bio text not null,
    picture_url text not null,
    -- Credentials and the state of the account; null until accounts have them.
    email text,
    password_hash text,
    state smallint not null default 0,
    create_time timestamptz not null
);

create table "user".outbox (
    event_id bigint generated always as identity primary key,
    partition smallint not null,
    subject text not null,
    payload bytea not null,
    create_time timestamptz not null default clock_timestamp(),
    published_time timestamptz
);

create index outbox_waiting on "user".outbox (partition, event_id) where published_time is null;

create table "user".idempotency (
    -- 0: nobody was identified, as when registering.
    actor_id bigint not null,
    request_id text not null,
    method text not null,
    payload_hash bytea not null,
    reply bytea not null,
    create_time timestamptz not null default clock_timestamp(),
    primary key (actor_id, request_id)
);

create index idempotency_age on "user".idempotency using brin (create_time);
