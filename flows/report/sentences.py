"""The report's sentences: how the run ended, what is claimed of its quality, what was asked, what to do next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from thirdshift.flows.console import money, spent
from thirdshift.flows.report.data import Row, RunFacts
from thirdshift.flows.runs.summary import SAID
from thirdshift.flows.verdicts import Verdict
from thirdshift.router.certification.certificate import population_sentence

EXITS: Mapping[int, str] = {
    0: "Done",
    3: "Done, but the floor was missed or is not certified",
    4: "Stopped by the budget",
    5: "Stopped by the deadline",
    6: "Done, but more requests than tolerated have no answer",
}
"""Exit code to headline."""

BASES: Mapping[str, str] = {
    "reference": "answers held against references",
    "human": "people's scores",
    "judge": "the opinion of a model as judge",
    "agreement": "agreement with another endpoint's answers, which need not be right",
    "schema": "validity by the response schema, which says nothing of the content",
}
"""A certificate's basis, in words; whatever else it says stands for itself."""


def headline(facts: RunFacts) -> str:
    """Return how the run ended, or that it has not, in a few words."""
    if facts.exit_code is not None:
        return EXITS[facts.exit_code]
    if facts.alive:
        return "Still running"
    return "Broke off" if facts.run["status"] == "failed" else "Not finished"


def good(facts: RunFacts) -> bool:
    """Return whether the run ended with exit code 0."""
    return facts.exit_code == 0


def next_steps(facts: RunFacts) -> Iterator[str]:
    """Yield what to do now, the most pressing first. Commands are for a terminal beside the warehouse."""
    run_id = facts.run["run_id"]
    if not facts.over:
        if facts.alive:
            yield "A process is on this run now; this page shows what had come when it was made."
        else:
            yield (
                f"No process is on this run. Go on with: thirdshift resume {run_id}; what was answered is not paid for "
                "again."
            )
    for verdict in facts.verdicts:
        yield " ".join(
            filter(None, [_capital(SAID[verdict].format(run_id=run_id, where="")) + ".", MORE[verdict]])
        )
    if facts.counts["unsettled"]:
        amount = money(facts.counts["unsettled_usd"])
        tells = "the invoice tells: thirdshift ledger reconcile --settle."
        if not facts.over:
            tells = f"of those that a batch tier still has `resume` learns it, of the others {tells}"
        yield (
            f"{facts.counts['unsettled']:,} attempts are unsettled: sent, but what became of them is not known. "
            f"They can have cost {amount} together at most; {tells}"
        )
    if facts.counts["rejects"]:
        yield f"{facts.counts['rejects']:,} input rows were refused; the reasons stand under Failures."
    if good(facts) and facts.config.get("emulated"):
        yield "This was a rehearsal. For the real thing: thirdshift run with the same job."


MORE: Mapping[Verdict, str] = {
    Verdict.BUDGET: "What was answered is kept; the rest waits for a higher cap.",
    Verdict.APPROVAL: "",
    Verdict.DEADLINE: "What was answered is kept; the rest waits for a later deadline.",
    Verdict.ERRORS: "The causes stand under Failures; with reuse: answered, a new run asks for the failed ones alone.",
    Verdict.FLOOR_MISSED: "A better endpoint, a lower floor or a higher cap would help; see thirdshift plan.",
    Verdict.NOT_CERTIFIED: "More scored answers (quality.audit, quality.labels) narrow the bound.",
}
"""What to do about it, beyond what the terminal said."""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- quality ------------------------------------------------------------------------------------------------------------


def claim(certificate: Row, relative_to: str | None = None) -> str:
    """Return the certificate in a sentence; a judge's opinion is never called quality, and a share is called one.

    `relative_to`: the endpoint that the floor, the mean and the bound are shares of.
    """
    of = _opinion(certificate) or f"Mean score by {certificate['scorer']}"
    if relative_to is not None:
        of += f", as a share of the mean of {relative_to}"
    where = f" in task {certificate['task']}" if certificate["task"] is not None else ""
    bound, floor = certificate["lower_bound"], certificate["floor"]
    if certificate["method"] == "identity":
        how = "all were served by that endpoint itself, so that nothing need be scored"
    elif certificate["method"] == "census":
        how = f"all {certificate['population']:,} were scored, so the bound is the mean"
    else:
        how = (
            f"with {certificate['confidence']:.0%} confidence, from {certificate['scored']:,} scored of "
            f"{certificate['population']:,} by the {certificate['method']} method"
        )
    word = "certified" if certificate["certified"] else "not certified"
    claim = f"the floor of {floor:g} is {word}" if floor else "no floor was asked"
    part = population_sentence(certificate["population"], certificate.get("requests"))
    text = f"{of}{where}: at least {bound:.4f} ({how}); {claim}."
    return f"{text} {part}." if part else text


def subject(certificate: Row, relative_to: str | None = None) -> str:
    """Return what the bound is of, in a few words or by a judge's name."""
    if opinion := _opinion(certificate):
        return opinion
    return "Mean score" if relative_to is None else f"Share of {relative_to}'s mean"


def cut(bound: float) -> str:
    """Round a bound down to three places, so that it is never above what is known."""
    return f"{math.floor(bound * 1000) / 1000:.3f}"


def _opinion(certificate: Row) -> str | None:
    """Return whose opinion the score is, as the certificate names it; None where references or a schema decide."""
    named: str = certificate["scorer"]
    if certificate["basis"] == "judge" and not named.startswith("judge"):
        return f"judge {named}"
    return named if certificate["basis"] in ("judge", "human", "agreement") else None


def basis(certificate: Row) -> str:
    """Return a certificate's basis in words."""
    return BASES.get(certificate["basis"], certificate["basis"])


def stopped(facts: RunFacts) -> bool:
    """Return whether the run was stopped with requests that were not sent."""
    return bool({Verdict.BUDGET, Verdict.APPROVAL, Verdict.DEADLINE} & set(facts.verdicts))


def no_certificate(facts: RunFacts) -> str:
    """Return why nothing is claimed of the quality."""
    quality = facts.config.get("quality") or {}
    if not quality.get("scorer"):
        return "No scorer was given: quality is predicted only, and nothing is certified."
    if not facts.over:
        return "The run is not over: nothing is claimed of its quality yet."
    if stopped(facts):
        return "The run was stopped before every request was answered: nothing is claimed of its quality."
    return "Nothing was certified; the answers that could be scored are listed below."


# --- money --------------------------------------------------------------------------------------------------------------


def bill(facts: RunFacts) -> str:
    """Return what was paid, by purpose, and what of it is unsettled."""
    total = facts.spent_usd
    text = f"The run spent {money(facts.counts['spent_usd'])}"
    by_purpose: dict[str, float] = {}
    for row in facts.spend:
        by_purpose[row["purpose"]] = by_purpose.get(row["purpose"], 0.0) + float(row["settled_usd"])
    parts = [f"{money(usd)} for {PURPOSES.get(name, name)}" for name, usd in by_purpose.items() if usd]
    text += f": {', '.join(parts)}." if total and len(parts) > 1 else "."
    if facts.counts["unsettled"]:
        text += f" That is settled; up to {money(facts.counts['unsettled_usd'])} more is unsettled."
    if stopped(facts) or not facts.over:
        text += " What an endpoint alone would have cost is for all requests; this run has not answered all of them."
    return text


PURPOSES: Mapping[str, str] = {
    "pilot": "the pilot",
    "main": "answers",
    "vote": "second answers",
    "audit": "the audit",
    "repair": "repair",
    "judge": "the judge",
    "overhead": "workers' overhead",
}


def frontier(facts: RunFacts) -> tuple[str, ...]:
    """Return what the plan expected of quality, and how near it is to the cheapest; empty without a plan."""
    plan = facts.plan
    if plan is None or plan.quality is None:
        return ()
    quality = facts.config.get("quality") or {}
    floor, relative = quality.get("floor", 0.0), quality.get("relative_to")
    near = f"is within {plan.gap:.2%} of the cheapest plan there is"
    text = f"The plan expected a mean score of {plan.quality:.3f} and {near}"
    if relative is None and plan.quality < floor:
        return (f"{text} under its other terms: no plan was expected to reach the floor, {floor:g}.",)
    if relative is None and plan.quality > floor:
        return (f"{text}. What it expects above the floor is a margin for what is not known.",)
    return (f"{text}.",)


def estimate(facts: RunFacts) -> tuple[str, ...]:
    """Return the estimated and the actual cost in a sentence; empty without an estimate."""
    planned = facts.run["planned_usd"]
    if not planned:
        return ()
    error = facts.spent_usd / float(planned) - 1.0
    actual = spent(facts.counts["spent_usd"], facts.counts["unsettled_usd"])
    return (
        f"Estimated {money(planned)}, actual {actual}, error {error:+.1%} by what is settled, pilot included.",
    )


def failures(facts: RunFacts) -> tuple[str, ...]:
    """Return what has no answer, what was not sent, and which shards failed."""
    sentences = []
    counts = facts.counts
    if facts.over:
        sentences.append(f"{counts['errors']:,} of {counts['results']:,} results have no answer." if counts["errors"] else
                    "Every result has an answer.")  # fmt: skip
        missing = counts["requests"] - counts["results"]
        if missing > 0:
            sentences.append(f"{missing:,} requests were not sent before the run was stopped.")
    if facts.broken_shards["shards"]:
        sentences.append(
            f"{facts.broken_shards['shards']:,} shards broke off, with {facts.broken_shards['requests']:,} requests."
        )
    if not facts.failed_attempts:
        sentences.append("No attempt failed.")
    return tuple(sentences)


# --- emulation ----------------------------------------------------------------------------------------------------------


def emulation(facts: RunFacts) -> str | None:
    """Return the sentence for the top of the page where any answer came from our emulated provider; else None."""
    if facts.config.get("emulated"):
        return (
            "A rehearsal: every endpoint was emulated on this machine. Prices and limits are the real ones; the answers, "
            "their scores and the time they took are not, and nothing was billed."
        )
    if facts.emulated:
        endpoints = {endpoint["name"] for endpoint in facts.config.get("endpoints") or ()}
        named = "every endpoint" if endpoints <= set(facts.emulated) else ", ".join(facts.emulated)
        return f"Emulated on this machine, so that nothing was billed for: {named}. What they answered and took is made up."
    return None


# --- what was asked -----------------------------------------------------------------------------------------------------


def request_of_run(facts: RunFacts) -> Iterator[tuple[str, str]]:
    """Yield the job's terms as pairs of a name and a value, in the page's order."""
    run, config = facts.run, facts.config
    yield "Job", run["job"] + (f" ({_pairs(config['params'])})" if config.get("params") else "")
    yield "Input", _input(config.get("input"))
    yield "Requests", _requests(facts.counts)
    yield "Quality", _quality(config.get("quality") or {})
    yield "Budget", _budget(config.get("budget") or {}, run["cap_usd"])
    yield "Deadline", instant(run["deadline"]) if run["deadline"] else "none"
    yield "Policy", policy(config.get("policy") or {})
    for name, rules in (config.get("policies") or {}).items():
        yield f"Policy {name}", policy(rules)
    if config.get("tags"):
        yield "Tags", _pairs(config["tags"])
    if config.get("reuse") == "answered":
        yield "Reuse", f"earlier answers are taken; {facts.counts['reused']:,} were"
    yield "Started", instant(run["started_at"])
    yield "Finished", instant(run["finished_at"]) if facts.over else "not yet"


def _input(source: Any) -> str:
    return "a query of the job's" if isinstance(source, dict) else str(source)


def _requests(counts: Row) -> str:
    parts = [f"{counts['requests']:,} accepted"]
    if counts["duplicates"]:
        parts.append(f"of them {counts['duplicates']:,} duplicates, answered once")
    parts.append(f"{counts['rejects']:,} refused")
    if counts["tasks"] > 1:
        parts.append(f"{counts['tasks']:,} tasks")
    return ", ".join(parts)


def _quality(quality: Mapping[str, Any]) -> str:
    scorer = quality.get("scorer")
    if not scorer:
        return "no scorer: the floor is predicted only"
    floor = f"floor {quality['floor']:g}" if quality.get("floor") else "no floor"
    if quality.get("relative_to"):
        floor += f" of the mean of {quality['relative_to']}"
    per_task = ", for every task on its own" if quality.get("per_task") else ""
    text = f"{floor}{per_task}, scored by {scorer}, {quality.get('confidence', 0.95):.0%} confidence"
    return f"{text}, pilot of {quality.get('pilot', 0):,}"


def _budget(budget: Mapping[str, Any], cap: Decimal | None) -> str:
    text = "no cap" if cap is None else f"cap {money(cap)}"
    if cap is not None and budget.get("window", "run") != "run":
        text += f" a {budget['window']}"
    if budget.get("approve_above_usd") is not None:
        text += f", approval above {money(Decimal(str(budget['approve_above_usd'])))}"
    return text


def policy(rules: Mapping[str, Any]) -> str:
    """Return a policy in words: `regions: only eu; zero retention`."""
    rules_text = []
    for name in ("licences", "labs", "origins", "regions"):
        rule = rules.get(name)
        if rule and rule.get("allow") is not None:
            rules_text.append(f"{name}: only {', '.join(rule['allow']) or 'none'}")
        elif rule and rule.get("deny"):
            rules_text.append(f"{name}: not {', '.join(rule['deny'])}")
    rules_text += [
        name.replace("_", " ") for name in ("self_hosted_only", "zero_retention") if rules.get(name)
    ]
    if rules.get("max_vendor_share") is not None:
        rules_text.append(f"at most {rules['max_vendor_share']:.0%} of requests to one vendor")
    return "; ".join(rules_text) or "none"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def instant(at: datetime | None) -> str:
    """Return an instant to the second, in UTC; empty for None."""
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"
