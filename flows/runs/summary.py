"""How a night ended, for people: the bill, the quality and its basis, what else there is to know and to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from thirdshift.flows.console import money
from thirdshift.flows.verdicts import Verdict
from thirdshift.router.certification.scorers import Basis

SAID: dict[Verdict, str] = {
    Verdict.BUDGET: "the budget stopped it; go on with: thirdshift resume {run_id}{where} --cap USD",
    Verdict.APPROVAL: (
        "the plan is above budget.approve_above_usd and nobody approved of it; nothing was spent beyond the pilot; "
        "go on with: thirdshift resume {run_id}{where} --yes"
    ),
    Verdict.DEADLINE: "the deadline stopped it; go on with: thirdshift resume {run_id}{where} --deadline …",
    Verdict.ERRORS: "more requests than tolerate.errors allows have no answer; see results.error",
    Verdict.FLOOR_MISSED: "the floor was missed",
    Verdict.NOT_CERTIFIED: "the floor could not be certified",
}


def lines(summary: Mapping[str, Any]) -> list[str]:
    """The end in a few lines."""
    certificate = summary["certificate"]
    counts = f"{summary['results']:,} results, {summary['errors']:,} of them errors; {summary['rejects']:,} rows rejected"
    told = [f"{counts}; {money(summary['spent_usd'])} spent"]
    planned = summary["planned_usd"]
    if planned:
        error = summary["spent_usd"] / planned - 1.0
        told.append(f"estimated {money(planned)}, actual {money(summary['spent_usd'])}, error {error:+.1%}")
    if summary["reused"]:
        told.append(f"{summary['reused']:,} answers reused, {money(summary['reused_usd'])} not paid again")
    if certificate is not None:
        told.append(claim(certificate))
    elif Verdict.NOT_CERTIFIED in summary["outcomes"]:
        told.append("nothing was scored at random, so nothing is claimed of the quality")
    elif summary["mean_score"] is None:
        told.append("no scorer was given: quality is predicted only, and nothing is certified")
    path = Path(summary["warehouse"])
    where = "" if path == Path.cwd() / "warehouse.duckdb" else f" --warehouse {path}"
    told += [
        SAID[Verdict(name)].format(**summary, where=where) for name in summary["outcomes"] if name != "done"
    ]
    return told


def claim(certificate: Mapping[str, Any]) -> str:
    """What is claimed, and by whose opinion; a judge's or people's is never called quality."""
    how = "all scored" if certificate["method"] == "census" else f"{certificate['scored']:,} scored"
    of = f"{how} of {certificate['population']:,}"
    word = "certified" if certificate["certified"] else "not certified"
    mean, bound, scorer = certificate["mean"], certificate["lower_bound"], certificate["scorer"]
    if certificate["basis"] in (Basis.JUDGE, Basis.HUMAN, Basis.AGREEMENT):
        told = f"{scorer}: ≥ {bound:.4f} (estimate {mean:.4f}, {of})"
    else:
        told = f"quality {mean:.4f} by {scorer} ({of}, lower bound {bound:.4f})"
    return f"{told}; floor {certificate['floor']:g} {word}"


def show_end(summary: Mapping[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for line in lines(summary):
        console.print(line)
    console.print(
        f"run {summary['run_id']}, exit {summary['exit']}; ask it: thirdshift sql --warehouse {summary['warehouse']} …"
    )
