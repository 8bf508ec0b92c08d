"""Values that were never used before, in any process."""

import itertools
import os


class Nonces:
    """Short printable ASCII values, unique across processes and restarts; not secret."""

    def __init__(self) -> None:
        """The 64 random bits tell this instance from every other."""
        self._prefix, self._count = os.urandom(8).hex(), itertools.count()

    def next(self) -> str:
        """A new one, without ":"."""
        return f"{self._prefix}.{next(self._count)}"
