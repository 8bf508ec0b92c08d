"""Becomes a child server: asks the kernel to signal it when its parent dies, changes user if told, then execs.

Run as a script with `-I -S`, so it may import nothing but the standard library. Usage:
    launch.py PARENT_PID ORPHAN_SIGNAL none|namespace|setuid:UID PROGRAM [ARGUMENT …]
Shell tools (`setpriv`, `unshare`) would do the same, but not on every system and not both in the needed order:
entering a user namespace clears the parent-death signal, so it has to be asked for afterwards.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
# Any id but 0 will do: PostgreSQL only looks whether it is root.
NAMESPACE_ID = 1000


def follow_parent(parent: int, signal_number: int) -> None:
    """Asks for `signal_number` when the parent dies; outside Linux there is no such request and nothing is done."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def enter_namespace() -> None:
    """Becomes user 1000 of a new user namespace; files and signals are still those of the real user."""
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "user namespaces are not available")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NAMESPACE_ID} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{NAMESPACE_ID} {gid} 1")


def change_user(uid: int) -> None:
    """Becomes another user for good, with no group of the old one."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def main(arguments: list[str]) -> None:
    """Prepares the process as told and replaces it by the program."""
    parent, orphan_signal, confinement, *command = arguments
    if confinement == "namespace":
        enter_namespace()
    elif confinement.startswith("setuid:"):
        change_user(int(confinement.removeprefix("setuid:")))
    follow_parent(int(parent), int(orphan_signal))
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
