"""Infer what a job should say from its input's columns and first rows; pure, each choice with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thirdshift.warehouse.intake.sampling import InputSample

IDS = ("request_id", "id", "uuid", "guid", "key", "custom_id", "index", "idx", "row_id", "number")
PROMPTS = (
    "prompt", "question", "query", "instruction", "input", "text", "body", "message", "content", "document",
    "article", "review", "comment", "description", "title",
)  # fmt: skip
CONTEXTS = ("context", "passage", "title", "subject")
"""What stands before a question or a body, where there is such a column too."""
REFERENCES = ("reference", "answer", "label", "target", "expected", "gold", "ground_truth", "solution", "expected_output",
              "output", "completion", "category", "class")  # fmt: skip
TASKS = ("task", "category", "subject", "topic", "domain", "type", "kind", "dataset", "language", "class")
MOST_TASKS = 200
MOST_METADATA = 8
NAMED = frozenset({"request_id", "prompt", "messages", "system", "task", "max_tokens", "temperature", "response_schema",
                   "reference", "policy", "metadata", "date", "dt", "ds", "day"})  # fmt: skip
"""Columns that a request has by their names, and days, which a param names."""
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""A column that a prompt's template can name."""

LETTER = re.compile(r"\W*[A-Za-z]\W*")
NUMBER = re.compile(
    r"(.*####)?\s*[-+\N{MINUS SIGN}]?\s*[$€£¥]?\s*[-+]?\d[\d,]*(\.\d+)?([eE][-+]?\d+)?\s*[%€]?\s*", re.DOTALL
)
ALIKE = 0.95
"""The share of references that must be of a kind; the rest may be slips."""
SHORT = 60
"""Characters: longer answers are seldom the same to the letter."""
CHARACTERS_PER_TOKEN = 4
ROOM_TO_REASON = 1024
"""Tokens where an answer ends in a letter or a number: models think aloud before that."""

LEAST_ROOM = 256
"""Tokens for the shortest answers: a model that reasons is cut off with less."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing the job says, and why."""

    what: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a new job says about its input, with the reason for each choice."""

    id: str | None = None
    """The column that names a row; None: `request_id` is there."""
    numbered: bool = False
    """No column names a row: a query must number them."""
    prompt: str | None = None
    """The prompt's template; None: `prompt` or `messages` is there."""
    task: str | None = None
    reference: str | None = None
    max_tokens: int = ROOM_TO_REASON
    scorer: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""
    """A system prompt that would help the scorer, as a suggestion."""
    metadata: tuple[str, ...] = ()
    """Columns that group rows, carried through to the results."""
    prompt_characters: float = 0.0
    """Mean number of characters over the sample."""
    choices: tuple[Choice, ...] = ()


class NoPrompt(ValueError):
    """No column can be asked."""


def propose(sample: InputSample) -> Proposal:
    """Propose a job for the sampled input, with the reason for each choice. Raises NoPrompt: no column can be asked."""
    if sample.batch_file:
        why = "lines with custom_id and body: requests already"
        return Proposal(
            max_tokens=1024, prompt_characters=2_000.0, choices=(Choice("input", "batch file", why),)
        )
    by_lower_name = {column.lower(): column for column in sample.columns}
    choices: list[Choice] = []
    id_, numbered = _id(sample, by_lower_name, choices)
    prompt, used = _prompt(sample, by_lower_name, choices)
    reference = _named(REFERENCES, by_lower_name, {*used, id_, "request_id"})
    task = _task(sample, by_lower_name, {*used, id_, reference}, choices)
    scorer, fields, hint, tokens = _scoring(sample, reference, choices)
    metadata = _metadata(sample, {*used, id_, reference, task})
    if metadata:
        choices.append(
            Choice("metadata", ", ".join(metadata), "they group rows: carried through to the results")
        )
    return Proposal(
        id=id_,
        numbered=numbered,
        prompt=prompt,
        task=None if task == "task" else task,
        reference=None if reference == "reference" else reference,
        max_tokens=tokens,
        scorer=scorer,
        fields=fields,
        hint="" if "system" in by_lower_name else hint,
        metadata=metadata,
        prompt_characters=_mean_length(sample, used),
        choices=tuple(choices),
    )


def _metadata(sample: InputSample, taken: set[str | None]) -> tuple[str, ...]:
    """Name the columns that group rows and have no other use, few enough to be read."""
    groups = [
        column
        for column, kinds in sample.distinct.items()
        if column not in taken
        and column.lower() not in NAMED
        and 1 < kinds < min(MOST_TASKS + 1, sample.rows / 2)
    ]
    return tuple(groups[:MOST_METADATA])


def _named(names: Sequence[str], by_lower_name: Mapping[str, str], taken: set[str | None]) -> str | None:
    return next(
        (by_lower_name[name] for name in names if name in by_lower_name and by_lower_name[name] not in taken),
        None,
    )


def _id(
    sample: InputSample, by_lower_name: Mapping[str, str], choices: list[Choice]
) -> tuple[str | None, bool]:
    """Return the column that names a row, and whether rows must be numbered instead."""
    likely = [by_lower_name[name] for name in IDS if name in by_lower_name]
    likely += [
        column for column in sample.columns if column.lower().endswith(("_id", "id")) and column not in likely
    ]
    unique = next((column for column in likely if sample.distinct.get(column) == sample.rows), None)
    if unique is not None:
        choices.append(Choice("id", unique, f"unique in all {sample.rows:,} rows"))
        return (None if unique == "request_id" else unique), False
    if "request_id" in by_lower_name:
        again = sample.rows - sample.distinct.get(by_lower_name["request_id"], 0)
        choices.append(
            Choice("id", "request_id", f"{again:,} rows repeat an id or have none and will be refused")
        )
        return None, False
    choices.append(Choice("id", "row number", "no column is different in every row"))
    return None, True


def _prompt(
    sample: InputSample, by_lower_name: Mapping[str, str], choices: list[Choice]
) -> tuple[str | None, list[str]]:
    """Return the prompt's template (None: requests have prompts already), and the columns that it uses."""
    for name in ("messages", "prompt"):
        if name in sample.columns:
            choices.append(Choice("prompt", name, "the column has the name that requests have"))
            return None, [name]
    column = _named(PROMPTS, by_lower_name, set()) or _wordiest(sample)
    if column is None or not PLAIN.fullmatch(column):
        columns = ", ".join(sample.columns)
        raise NoPrompt(
            f"no column looks like a prompt (there are {columns}); rename one to prompt, or write request.prompt"
        )
    before = (
        _named(CONTEXTS, by_lower_name, {column})
        if column.lower() in ("question", "query", "text", "body")
        else None
    )
    if before is not None and PLAIN.fullmatch(before) and sample.columns[before] == "VARCHAR":
        choices.append(Choice("prompt", f"{before}, then {column}", "columns of these names"))
        return f"{{{before}}}\n\n{{{column}}}", [before, column]
    choices.append(
        Choice("prompt", column, "a column of this name" if column.lower() in PROMPTS else "the longest text")
    )
    return f"{{{column}}}", [column]


def _wordiest(sample: InputSample) -> str | None:
    texts = [
        column for column, kind in sample.columns.items() if kind == "VARCHAR" and PLAIN.fullmatch(column)
    ]
    return max(texts, key=lambda column: _mean_length(sample, [column]), default=None)


def _task(
    sample: InputSample, by_lower_name: Mapping[str, str], taken: set[str | None], choices: list[Choice]
) -> str | None:
    for name in TASKS:
        column = by_lower_name.get(name)
        if column is None or column in taken:
            continue
        kinds = sample.distinct.get(column, 0)
        if 1 <= kinds <= MOST_TASKS and (kinds < sample.rows / 2 or column == "task"):
            choices.append(
                Choice("task", column, f"{kinds:,} kinds of request" if kinds > 1 else "one kind of request")
            )
            return column
    return None


# --- scoring ------------------------------------------------------------------------------------------------------------


def _scoring(
    sample: InputSample, reference: str | None, choices: list[Choice]
) -> tuple[str | None, Mapping[str, str], str, int]:
    """Return the scorer, its fields, a system prompt that would help, and the tokens to allow."""
    known = [text for text in _texts(sample, reference) if text] if reference else []
    if not known or reference is None:
        schema = "response_schema" in sample.columns
        why = "answers can be checked against response_schema" if schema else "no column has right answers"
        choices.append(Choice("scorer", "json_schema" if schema else "none", why))
        return ("json_schema" if schema else None), {}, "", ROOM_TO_REASON
    scorer, why, fields, hint = _kind(known)
    tokens = ROOM_TO_REASON if scorer in ("choice", "numeric") else _room(known)
    if "max_tokens" in sample.columns:
        choices.append(Choice("max_tokens", "column max_tokens", f"{tokens:,} where it is null"))
    else:
        choices.append(Choice("max_tokens", f"{tokens:,}", "room to think aloud" if scorer in ("choice", "numeric")
                              else "twice the longest reference, and room"))  # fmt: skip
    missing = sample.first.num_rows - len(known)
    gaps = f"; {missing:,} of the first {sample.first.num_rows:,} rows have none" if missing else ""
    choices.append(Choice("scorer", scorer or "none", f"{why} in {reference}{gaps}"))
    return scorer, fields, hint, tokens


def _kind(known: Sequence[str]) -> tuple[str | None, str, Mapping[str, str], str]:
    """Return the scorer for what references look like, why, its fields, and a system prompt that helps."""
    if _share(LETTER.fullmatch(text) is not None for text in known) >= ALIKE:
        return "choice", "single letters", {}, "End with the letter of the right answer."
    if _share(NUMBER.fullmatch(text) is not None for text in known) >= ALIKE:
        return "numeric", "numbers", {}, "End with the number that is the answer."
    objects = [parsed for text in known if (parsed := _object(text)) is not None]
    if len(objects) >= ALIKE * len(known):
        return "fields", "JSON objects", _fields(objects), "Answer with a JSON object alone."
    long = sorted(map(len, known))[int(0.95 * (len(known) - 1))]
    if long <= SHORT:
        few = sorted(set(known))
        labels = f"one of: {', '.join(few)}" if len(few) <= 20 else "the answer alone"
        return "exact", "short texts", {}, f"Answer with {labels}, and nothing else."
    return None, "long texts, which no free scorer can judge,", {}, ""


def _share(tests: Iterator[bool]) -> float:
    results = list(tests)
    return sum(results) / len(results)


def _object(text: str) -> dict[str, Any] | None:
    try:
        parsed = json.loads(text)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _fields(objects: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the fields that most objects have, each with the scorer for its values."""
    names = [name for name in objects[0] if sum(name in record for record in objects) >= ALIKE * len(objects)]
    return {name: _field(objects[0][name]) for name in names}


def _field(value: Any) -> str:
    return "numeric" if isinstance(value, int | float) and not isinstance(value, bool) else "exact"


def _room(known: Sequence[str]) -> int:
    """Return the tokens for twice the longest reference, in steps of 64."""
    longest = max(len(text) for text in known) / CHARACTERS_PER_TOKEN
    return max(LEAST_ROOM, int(-(-2 * longest // 64) * 64))


def _texts(sample: InputSample, column: str) -> list[str]:
    return ["" if value is None else _text(value) for value in sample.first[column].to_pylist()]


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else json.dumps(value, default=str)


def _mean_length(sample: InputSample, columns: Sequence[str]) -> float:
    total = sum(len(text) for column in columns for text in _texts(sample, column))
    return float(total / max(sample.first.num_rows, 1))
