-- Worker ids of the id service: a row for each of the 1024, taken by one process at a time.
create schema id;

create table id.worker_lease (
    worker_id smallint primary key check (worker_id between 0 and 1023),
    -- The process that took it last.
    owner text not null default '',
    -- Until when nobody else takes it, by this server's clock.
    lease_until timestamptz not null default '-infinity',
    -- Unix time in milliseconds: no id of this worker was or will be issued after it unless it is raised first. It never falls.
    mark_ms bigint not null default 0
);

insert into id.worker_lease (worker_id) select generate_series(0, 1023);
