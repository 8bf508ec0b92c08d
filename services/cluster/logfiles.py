"""The log files of the children: appended to by them, bounded by us, read by `chirp logs`."""

from __future__ import annotations

import os
import shutil
from collections import deque
from pathlib import Path
from typing import BinaryIO

LARGEST = 8 * 1024 * 1024


def open_for_append(path: Path) -> BinaryIO:
    """A file for a child's output; append mode lets us cut it while the child holds it open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


def bound(path: Path, largest: int = LARGEST) -> None:
    """Moves the content to NAME.log.1 when the file has grown beyond `largest` bytes; at most twice that is kept."""
    if not path.exists() or path.stat().st_size <= largest:
        return
    # Copied and cut, not renamed: the child goes on writing to the file it has open.
    shutil.copyfile(path, older(path))
    os.truncate(path, 0)


def older(path: Path) -> Path:
    """Where the part before the last cut is."""
    return path.with_name(f"{path.name}.1")


def tail(path: Path, count: int) -> list[str]:
    """The last lines, oldest first, reaching back over the last cut."""
    lines: deque[str] = deque(maxlen=count)
    for part in (older(path), path):
        if part.exists():
            with part.open(errors="replace") as file:
                lines.extend(line.rstrip("\n") for line in file)
    return list(lines)


def last_line(path: Path, longest: int = 300) -> str:
    """The last line that says something; for a Python traceback that is the exception."""
    lines = [line.strip() for line in tail(path, 20) if line.strip()]
    return lines[-1][:longest] if lines else "it wrote nothing"
