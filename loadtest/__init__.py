"""Load and proof: filling a cluster, auditing what it answers, measuring it against the floors of this machine.

seed.py    `chirp seed`: users, follows and tweets through the services' own RPCs        graphs.py  texts.py  loader.py
audit.py   `chirp audit`: homes against the truth, entry by entry                        truth.py  homes.py
bench.py   `chirp bench`: every ratio against its floor, measured in the same run        floors/
"""
