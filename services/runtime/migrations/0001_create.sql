-- What the runtime itself remembers: messages that can never succeed, settings changed at run time, replays of outboxes.
-- (The ledger runtime.migration is made by the migrator, which needs it before it can apply anything.)

create table runtime.dead_letter (
    id             bigint generated always as identity primary key,
    consumer       text        not null,
    stream         text        not null,
    subject        text        not null,
    message_id     text        not null,
    event_id       text        not null,
    payload        bytea       not null,
    headers        jsonb       not null default '{}',
    reason         text        not null,
    error          text        not null,
    deliveries     integer     not null,
    replays        integer     not null default 0,
    create_time    timestamptz not null default clock_timestamp(),
    resolved_time  timestamptz,
    resolution     text check (resolution in ('replayed', 'discarded'))
);

-- A message whose acknowledgement was lost comes again: it is the same dead letter.
create unique index dead_letter_message on runtime.dead_letter (consumer, message_id);

create index dead_letter_waiting on runtime.dead_letter (id) where resolved_time is null;

create table runtime.setting (
    name        text primary key,
    value       text        not null,
    update_time timestamptz not null default clock_timestamp()
);

-- How often an outbox was published again: part of the message id from then on, or the stream would drop the repetitions.
create table runtime.outbox_replay (
    schema_name text primary key,
    generation  integer not null
);
