"""Write answers out for people to score, and take their scores in.

What they show is in `flows/quality/human_labels.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.flows.errors import UserError, nearest
from thirdshift.flows.formats import jsonable
from thirdshift.flows.quality.draws import seed_of
from thirdshift.flows.quality.finishing import Quality, of_quality, save_quality
from thirdshift.flows.quality.human_labels import PEOPLE, Answers, answers_of, certified, is_random_part
from thirdshift.flows.quality.population import accepted
from thirdshift.flows.verdicts import Verdict, floor_words, outcomes_of, verdicts_of
from thirdshift.router.certification.certificate import Certificate
from thirdshift.router.certification.scorers import Basis
from thirdshift.router.tokens.estimate import texts_of
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.exchange.labels import read_labels, write_labels
from thirdshift.warehouse.journal.run_folder import run_folder
from thirdshift.warehouse.store import observations, runs
from thirdshift.warehouse.store.locks import check_exists
from thirdshift.warehouse.store.store import Warehouse, frozen_parquet

TEXTS = """
select q.row, q.request_id, q.task, f.messages, r.output, f.reference
from wanted w join requests q on q.run_id = $run_id and q.row = w.row
join results r on r.run_id = q.run_id and r.request_id = q.request_id
join {frozen} f on f.row = q.row
"""
IMPORTS = """
select count(distinct observed_at) as imports from observations where run_id = $run_id and basis = 'human'
"""
LABELLED = """
select request_id, endpoint, arg_max(score, observed_at) as score from observations
where run_id = $run_id and basis = 'human' group by all
"""
RUNS = "select run_id from runs order by started_at desc"


def _run(warehouse: Warehouse, run_id: str) -> dict[str, Any]:
    """Return the row of a run that is over. Raises UserError: there is no such run, or it is not over."""
    run = runs.get(warehouse, run_id)
    if run is None:
        known = [str(name) for name in warehouse.query(RUNS)["run_id"].to_pylist()]
        raise UserError(
            f"no run {run_id} in {warehouse.path}{nearest(run_id, known)}; there are {', '.join(known[:5])}"
        )
    if run["status"] != "done":
        raise UserError(f"run {run_id} is not over ({run['status']}); first: thirdshift resume {run_id}")
    return run


# --- out --------------------------------------------------------------------------------------------------------------


def export_labels(path: Path, run_id: str, output: Path, count: int, *, as_json: bool) -> int:
    """Write answers drawn at random for people to score; return 0. Raises UserError."""
    try:
        check_exists(path)
        with Warehouse.open(path) as warehouse:
            run = _run(warehouse, run_id)
            answers = answers_of(warehouse, run_id)
            if answers.purged and not len(answers.order):
                raise UserError(f"run {run_id}: its text was purged; there is nothing left to read and score")
            places = answers.firsts()[:count]
            rows = _rows(warehouse, run_id, answers, places)
        write_labels(output, rows)
    except WarehouseError as error:
        raise UserError(str(error)) from error
    seed, results = seed_of(run_id, 0), answers.table.num_rows
    if as_json:
        summary = {
            "run_id": run_id,
            "output": str(output),
            "rows": len(rows),
            "results": results,
            "seed": seed,
            "purged": answers.purged,
        }
        print(json.dumps(summary))
        return 0
    print(f"{len(rows):,} answers of {results:,} results, drawn uniformly at random (seed {seed}): {output}")
    if answers.purged:
        print(
            f"left out, as their text was purged: {_some(answers.purged)}; nobody can score them, and they count as 0"
        )
    print("fill in `score` (0 to 1) from the first row down, without looking at who answered; then:")
    print(f"  thirdshift labels import {run_id} --input {output} --warehouse {path}")
    if relative := _relative_to(run):
        print(
            f"note: the floor is a share of {relative}'s mean, which these scores do not tell; they will give a bound on "
            "the mean itself, and teach the next night"
        )
    return 0


def _rows(
    warehouse: Warehouse, run_id: str, answers: Answers, places: NDArray[np.int64]
) -> list[dict[str, Any]]:
    rows = np.asarray(answers.table["row"], np.int64)[places]
    frozen = frozen_parquet(run_folder(warehouse.path, run_id))
    texts = warehouse.query(TEXTS.format(frozen=frozen), {"wanted": pa.table({"row": rows})}, run_id=run_id)
    by_row = {text["row"]: text for text in texts.to_pylist()}
    return [
        {
            "run_id": run_id,
            "request_id": text["request_id"],
            "task": text["task"],
            "prompt": _prompt(text["messages"]),
            "output": text["output"],
            "reference": text["reference"],
            "score": None,
        }
        for text in (by_row[row] for row in rows.tolist())
    ]


def _prompt(messages: str) -> str:
    """Return a prompt as people read it: a single message as it is, a conversation with its roles."""
    conversation = json.loads(messages)
    if len(conversation) == 1:
        return "\n".join(texts_of(messages))
    return "\n\n".join(
        f"[{message.get('role')}] " + "\n".join(texts_of(json.dumps([message]))) for message in conversation
    )


# --- in ---------------------------------------------------------------------------------------------------------------


def import_labels(path: Path, labels: Path, run_id: str | None, *, as_json: bool) -> int:
    """Take people's scores in and issue the run's certificate anew; return 0. Raises UserError."""
    try:
        check_exists(path)
        labelled = read_labels(labels)
        run_id = _run_named(labels, labelled, run_id)
        with Warehouse.open(path) as warehouse:
            run = _run(warehouse, run_id)
            answers = answers_of(warehouse, run_id)
            scores = _matched(labels, labelled, answers, run_id)
            if not is_random_part(answers, scores):
                return _adds_nothing(run_id, answers, scores, as_json=as_json)
            repeated = _observe(warehouse, run_id, answers, scores)
            # whoever may stop filling in when the mean is good has tested more than once
            again = repeated or any(score is None for score in scores.values())
            certificates = [] if _relative_to(run) else certified(answers, scores, run, again=again)
            counts = accepted(warehouse, run_id)
            certificates = [replace(made, requests=counts[made.task]) for made in certificates]
            if certificates:
                save_quality(warehouse, run_id, Quality(tuple(certificates)))
                runs.update(warehouse, run_id, outcomes=_outcomes(run, certificates))
    except WarehouseError as error:
        raise UserError(str(error)) from error
    bound = certificates[0] if certificates else certified(answers, scores, run, again=again)[0]
    if as_json:
        summary = {
            "run_id": run_id,
            "labels": sum(score is not None for score in scores.values()),
            "certificate": bound if certificates else None,
            "lower_bound": bound.lower_bound,
        }
        print(json.dumps(summary, default=_jsonable))
    lines = _summary_lines(run_id, run, scores, bound, issued=bool(certificates))
    print("\n".join(lines), file=sys.stderr if as_json else sys.stdout)
    return 0


def _adds_nothing(run_id: str, answers: Answers, scores: Mapping[int, float | None], *, as_json: bool) -> int:
    """Say that a file is no random part, and which answers were drawn; what was certified before stands."""
    names = answers.table["request_id"].to_pylist()
    drawn = [str(names[place]) for place in answers.firsts()[:5].tolist()]
    if as_json:
        print(
            json.dumps(
                {"run_id": run_id, "labels": 0, "certificate": None, "lower_bound": None, "drawn": drawn}
            )
        )
    print(
        f"run {run_id}: {len(scores):,} answers in the file, which are not those that were drawn at random. What is chosen "
        "otherwise says nothing of the rest: nothing is taken in, and what was certified before stands.\n"
        f"Drawn were, in this order: {', '.join(drawn)}, …; to have them in a file: thirdshift labels export {run_id}",
        file=sys.stderr if as_json else sys.stdout,
    )
    return 0


def _run_named(labels: Path, labelled: Sequence[Mapping[str, Any]], run_id: str | None) -> str:
    """Return the run that the labels are of: as the option says, or as the file says. Raises UserError."""
    named = {row["run_id"] for row in labelled if row["run_id"]}
    if run_id is None and len(named) != 1:
        what = f"names {len(named)} runs" if named else "does not say of which run it is"
        raise UserError(f"{labels} {what}; say it: thirdshift labels import RUN_ID --input {labels}")
    if run_id is not None and named - {run_id}:
        raise UserError(f"{labels} is of run {', '.join(sorted(named - {run_id}))}, not of {run_id}")
    return run_id or str(named.pop())


def _matched(
    labels: Path, labelled: Sequence[Mapping[str, Any]], answers: Answers, run_id: str
) -> dict[int, float | None]:
    """Return the score of each answer in the file by its place in `answers`; None: left empty. Raises UserError."""
    at = {str(name): place for place, name in enumerate(answers.table["request_id"].to_pylist())}
    scores: dict[int, float | None] = {}
    unknown, twice = [], []
    for row in labelled:
        name = row["request_id"]
        place = at.get(
            name, at.get(name.removeprefix("'"))
        )  # as a spreadsheet's formula was kept from being one
        if place is None:
            unknown.append(name)
        elif scores.get(place, row["score"]) != row["score"]:
            twice.append(name)
        else:
            scores[place] = row["score"]
    if unknown:
        raise UserError(f"{labels}: run {run_id} has no request {_some(unknown)}; is it a file of this run?")
    if twice:
        raise UserError(f"{labels}: two scores for request {_some(twice)}; keep one")
    if all(score is None for score in scores.values()):
        raise UserError(f"{labels}: no score is filled in; put numbers from 0 to 1 into the column `score`")
    return scores


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _observe(warehouse: Warehouse, run_id: str, answers: Answers, scores: Mapping[int, float | None]) -> bool:
    """Append the scores that are new; return whether this run's answers were labelled at more than one time."""
    before = {
        (row["request_id"], row["endpoint"]): row["score"]
        for row in warehouse.query(LABELLED, run_id=run_id).to_pylist()
    }
    results = answers.table.select(["request_id", "task", "endpoint", "model"]).to_pylist()
    filled = {place: score for place, score in scores.items() if score is not None}
    same = {"run_id": run_id, "scorer": PEOPLE, "basis": Basis.HUMAN.value, "purpose": "audit"}
    now = datetime.now(UTC)
    fresh = [
        results[place] | same | {"score": score, "observed_at": now}
        for place, score in filled.items()
        if before.get((results[place]["request_id"], results[place]["endpoint"])) != score
    ]
    if fresh:
        observations.append(warehouse, pa.Table.from_pylist(fresh))
    return int(warehouse.query(IMPORTS, run_id=run_id)["imports"][0].as_py()) > 1


def _outcomes(run: Mapping[str, Any], certificates: Sequence[Certificate]) -> list[str]:
    """Return the run's outcomes, with what people's certificate says of the floor in place of what was there."""
    quality = {Verdict.FLOOR_MISSED, Verdict.NOT_CERTIFIED}
    verdicts = [verdict for verdict in verdicts_of(run["outcomes"] or ()) if verdict not in quality]
    if certificates[0].floor > 0:
        verdicts += of_quality(certificates, out_of_reach=False)
    return outcomes_of(verdicts)


def _summary_lines(
    run_id: str,
    run: Mapping[str, Any],
    scores: Mapping[int, float | None],
    bound: Certificate,
    *,
    issued: bool,
) -> list[str]:
    filled = sum(score is not None for score in scores.values())
    drawn = f"{bound.scored:,} of a random part of {bound.population:,} results"
    lines = [f"run {run_id}: {filled:,} scores of people taken in, {drawn}"]
    if bound.scored > filled:
        lines.append(
            "answers left empty before the last that was scored count as 0: fill them in and import again"
        )
    lines.append(f"{bound.sentence()}; estimate {bound.mean:.4f}")
    if not issued:
        return [
            *lines,
            f"no certificate: the floor is a share of {_relative_to(run)}'s mean, which people have not scored",
        ]
    lines.append(floor_words(bound.floor, certified=bound.certified))
    output = run["config"].get("output")
    if bound.certified and output and output["when"] == "certified":
        lines.append(f"its results may be published now: thirdshift resume {run_id}")
    return lines


def _relative_to(run: Mapping[str, Any]) -> str | None:
    name = run["config"]["quality"]["relative_to"]
    return None if name is None else str(name)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Certificate):
        return {
            name: getattr(value, name)
            for name in (
                "task",
                "floor",
                "confidence",
                "basis",
                "scorer",
                "population",
                "scored",
                "mean",
                "lower_bound",
            )
        } | {"certified": value.certified, "method": value.method.value}
    return jsonable(value)
