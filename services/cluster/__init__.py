"""Running everything on one machine: backends, services and gateway as child processes of one supervisor.

`topology.py` is the table of what there is; `backends.py` brings PostgreSQL, NATS and Redis (or takes the addresses it
is given); `machine.py` turns both into programs; `supervisor.py` starts them in dependency order, waits on health,
restarts what crashes and stops in reverse; `cli.py` is the `chirp` command. Imports the runtime and starts the rest as
processes.
"""
