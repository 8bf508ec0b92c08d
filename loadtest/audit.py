"""`chirp audit`: homes against the truth, entry by entry; status 1 on a difference, or if there was nothing to compare."""

import json as jsonlib
from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer

from loadtest import auditing, target
from loadtest.auditing import Findings
from loadtest.target import Target

SHOWN = 20

app = typer.Typer(add_completion=False)


@app.command()
def audit(
    users: Annotated[int, typer.Option(help="Random users to audit.", min=1)] = 100,
    depth: Annotated[int, typer.Option(help="Items of each home to compare; 0 for all.", min=0)] = 1000,
    cold: Annotated[bool, typer.Option(help="Also read homes that are not in the cache, which builds them.")] = False,
    repair: Annotated[bool, typer.Option(help="Build homes anew that differ, and compare them again.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="An entry that lies twice in a window is a difference too.")] = False,
    seed: Annotated[int, typer.Option(help="Another number draws other users.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Compare what the service answers, and the windows as they lie in Redis, with the truth computed by SQL."""
    findings = target.run(_audit(target.find(), users, depth, cold, repair, strict, seed))
    print(jsonlib.dumps(_facts(findings)) if json else _sentences(findings))
    if findings.differences or not findings.users:
        raise typer.Exit(1)


async def _audit(where: Target, users: int, depth: int, cold: bool, repair: bool, strict: bool, seed: int) -> Findings:
    async with auditing.open_auditor(where, depth) as auditor:
        drawn, looked_at = await auditor.draw(users, seed, cold=cold)
        return await auditing.run(auditor, drawn, looked_at, cold=cold, repair=repair, strict=strict)


def _facts(findings: Findings) -> dict[str, object]:
    facts = asdict(findings)
    facts["differences"] = [
        {**asdict(each), "user_id": str(each.user_id), "tweet_id": str(each.tweet_id)} for each in findings.differences
    ]
    return facts


def _sentences(findings: Findings) -> str:
    if not findings.users:
        return (
            f"nothing was compared: none of the {findings.looked_at} users looked at has a home in the cache; "
            "read homes first, or use --cold"
        )
    lines = [
        f"{findings.users} homes compared, {findings.entries:,} entries; {findings.windows} of them were in the cache "
        f"({findings.looked_at} users looked at)"
    ]
    if findings.repeated_in_windows:
        lines.append(f"{findings.repeated_in_windows} entries lie twice in windows; readers drop them")
    if findings.repaired:
        lines.append(f"{findings.repaired} built anew")
    if not findings.differences:
        return "\n".join([*lines, "no difference"])
    kinds = Counter(f"{each.kind} in the {each.place}" for each in findings.differences)
    lines.append(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    lines += [
        f"  user {each.user_id}: tweet {each.tweet_id} {each.kind} in the {each.place}" for each in findings.differences[:SHOWN]
    ]
    if len(findings.differences) > SHOWN:
        lines.append(f"  … and {len(findings.differences) - SHOWN} more (--json lists all)")
    return "\n".join(lines)
