"""How a run ended: as a value, which `run --json` prints, and in lines for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from thirdshift.flows.console import money, spent
from thirdshift.flows.formats import counted, printable
from thirdshift.flows.verdicts import Verdict, floor_words, verdicts_of
from thirdshift.router.certification.certificate import population_sentence
from thirdshift.router.certification.scorers import Basis
from thirdshift.router.prediction.drift import Drift

FIGURES = ("exit", "results", "errors", "rejects", "spent_usd", "unsettled_usd", "planned_usd", "mean_score")


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """What is claimed of the quality of a run's answers, as its warehouse holds it."""

    floor: float
    confidence: float
    basis: str
    """Whose opinion the scores are: a `Basis`."""
    scorer: str
    population: int
    """Requests that the claim is about."""
    requests: int | None
    """Accepted requests; None: not known, in a warehouse of an earlier version."""
    scored: int
    """Requests whose score is known."""
    mean: float
    lower_bound: float
    """The mean score is at least this, with the confidence asked."""
    certified: bool
    method: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run ended; `run --json` prints it."""

    run_id: str
    exit: int
    """The command's exit code; 0 where everything that was asked is done."""
    outcomes: tuple[str, ...]
    """Every `Verdict` that applies; `done` where none does."""
    results: int
    rejects: int
    errors: int
    spent_usd: float
    """Settled: the provider told the usage."""
    unsettled_usd: float
    """What attempts whose outcome was never learnt can have cost besides, at most."""
    planned_usd: float | None
    mean_score: float | None
    certificate: IssuedCertificate | None
    """The claim of the whole batch; None where nothing was scored at random."""
    drift: tuple[Drift, ...]
    """Endpoints that were found to have got worse."""
    reused: int
    """Answers taken from earlier runs."""
    reused_usd: float
    """What those cost then."""
    warehouse: str
    notes: tuple[str, ...] = ()
    """What else there is to know, a sentence each."""

    @property
    def exit_code(self) -> int:
        return self.exit


class NotDone(Exception):
    """A run is over with another exit code than 0: its flow run has failed, and a retry resumes it."""

    def __init__(self, summary: RunSummary) -> None:
        super().__init__(f"exit {summary.exit}: {', '.join(summary.outcomes)}; run {summary.run_id}")
        self.summary = summary


def checked(summary: RunSummary) -> RunSummary:
    """Return the summary of a run whose exit code is 0. Raises NotDone for any other."""
    if summary.exit:
        raise NotDone(summary)
    return summary


SAID: dict[Verdict, str] = {
    Verdict.BUDGET: "the budget stopped it; go on with: thirdshift resume {run_id}{where} --cap USD",
    Verdict.APPROVAL: (
        "the plan is above budget.approve_above_usd and nobody approved of it; nothing was spent beyond the pilot; "
        "go on with: thirdshift resume {run_id}{where} --yes"
    ),
    Verdict.DEADLINE: "the deadline stopped it; go on with: thirdshift resume {run_id}{where} --deadline …",
    Verdict.ERRORS: (
        "more requests than tolerate.errors allows have no answer (results.error says why), or none that satisfies its "
        "response_schema (results.valid)"
    ),
    Verdict.FLOOR_MISSED: "the floor was missed",
    Verdict.NOT_CERTIFIED: "the floor could not be certified",
}


def figures_of(summary: RunSummary) -> dict[str, Any]:
    """Return what is told of a run's end to machines: in events, notices and its span."""
    return {name: getattr(summary, name) for name in FIGURES}


def lines(summary: RunSummary) -> list[str]:
    """Say how a run ended in a few lines: the bill, the quality and its basis, what there is to do."""
    certificate = summary.certificate
    answered = f"{counted(summary.results, 'result')}, {summary.errors:,} of them errors"
    counts = f"{answered}; {counted(summary.rejects, 'row')} rejected"
    settled, unsettled = summary.spent_usd, summary.unsettled_usd
    texts = [f"{counts}; {spent(settled, unsettled)}"]
    planned = summary.planned_usd
    if planned:
        error = f"error {settled / planned - 1.0:+.1%}"
        if unsettled:
            error += f" to {(settled + unsettled) / planned - 1.0:+.1%}"
        texts.append(f"estimated {money(planned)}, actual {spent(settled, unsettled)}, {error}")
    if summary.reused:
        texts.append(f"{summary.reused:,} answers reused, {money(summary.reused_usd)} not paid again")
    if certificate is not None:
        texts.append(claim(certificate))
        if part := population_sentence(certificate.population, certificate.requests):
            texts.append(part)
    elif Verdict.NOT_CERTIFIED in summary.outcomes:
        texts.append("nothing was scored at random, so nothing is claimed of the quality")
    elif summary.mean_score is None:
        texts.append("no scorer was given: quality is a prediction, and nothing is certified")
    texts += summary.notes
    path = Path(summary.warehouse)
    where = "" if path == Path.cwd() / "warehouse.duckdb" else f" --warehouse {path}"
    values = asdict(summary)
    texts += [SAID[verdict].format(**values, where=where) for verdict in verdicts_of(summary.outcomes)]
    return texts


def claim(certificate: IssuedCertificate) -> str:
    """Say what is claimed, and by whose opinion; a judge's or people's is never called quality."""
    if certificate.method == "identity":
        share = f"all {certificate.population:,} served by the endpoint that the floor is a share of"
        return f"share 1, exactly: {share}; floor {certificate.floor:g} certified"
    how = "all scored" if certificate.method == "census" else f"{certificate.scored:,} scored"
    sample = f"{how} of {certificate.population:,}"
    mean, bound, scorer = certificate.mean, certificate.lower_bound, certificate.scorer
    if certificate.basis in (Basis.JUDGE, Basis.HUMAN, Basis.AGREEMENT):
        text = f"{scorer}: ≥ {bound:.4f} (estimate {mean:.4f}, {sample})"
    else:
        text = f"quality {mean:.4f} by {scorer} ({sample}, lower bound {bound:.4f})"
    return f"{text}; {floor_words(certificate.floor, certified=certificate.certified)}"


def show_end(summary: RunSummary) -> None:
    """Print `lines`, and how to ask the warehouse for more."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for line in lines(summary):
        console.print(printable(line))
    console.print(
        f"run {summary.run_id}, exit {summary.exit}; ask it: thirdshift sql --warehouse {summary.warehouse} …"
    )
