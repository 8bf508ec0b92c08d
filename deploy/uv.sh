#!/bin/sh
# Prints the path of uv; installs it for this user, or in .chirp/uv, where there is none. Needs no root.
set -eu
cd "$(dirname "$0")/.."

say() { echo "$*" >&2; }

find_uv() {
    for candidate in "$(command -v uv || true)" "$PWD/.chirp/uv/bin/uv" "$user_base/bin/uv"; do
        if [ -x "$candidate" ] && "$candidate" --version >/dev/null 2>&1; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

for python in python3.12 python3.11 python3; do
    if "$python" --version >/dev/null 2>&1; then break; fi
done
if ! "$python" --version >/dev/null 2>&1; then
    say "chirp: no Python found: install Python 3.12 or 3.11"
    exit 1
fi
user_base="$("$python" -m site --user-base 2>/dev/null || true)"

find_uv && exit 0

say "installing uv"
# Systems that manage their own Python refuse --user; a private environment is always allowed.
"$python" -m pip install --user --quiet uv >/dev/null 2>&1 ||
    { "$python" -m venv .chirp/uv && .chirp/uv/bin/python -m pip install --quiet uv; } >&2 ||
    { say "chirp: uv could not be installed: see https://docs.astral.sh/uv/getting-started/installation/"; exit 1; }
find_uv || { say "chirp: uv was installed but is not found: add $user_base/bin to PATH"; exit 1; }
