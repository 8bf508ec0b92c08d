-- How far each tweet has been delivered: one row a page of followers, so that a page written twice counts once.
create schema timeline;

create table timeline.fanout (
    tweet_id     bigint      not null,
    page         integer     not null,
    -- 1 pushed, 2 left to be pulled, 3 homes thrown away because the tweet was late
    outcome      smallint    not null,
    targets      integer     not null,
    delivered    integer     not null,
    inactive     integer     not null,
    last_page    boolean     not null,
    finish_time  timestamptz not null default clock_timestamp(),
    primary key (tweet_id, page)
);

create index fanout_age on timeline.fanout (finish_time);
