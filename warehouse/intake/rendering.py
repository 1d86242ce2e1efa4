"""Columns of any input → the columns of a request, as one select: a job's `request:` and the contract's own
columns.

A row's value beats the job's. What is wrong with a row becomes its `flaw`, the reason by which it is refused.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from thirdshift.warehouse.errors import InputError, nearest
from thirdshift.warehouse.intake.joined_ids import joined
from thirdshift.warehouse.intake.messages import PADDED
from thirdshift.warehouse.intake.sources import name, quoted

RAW = pa.schema(
    [
        ("request_id", pa.string()),
        ("task", pa.string()),
        ("policy", pa.string()),
        ("metadata", pa.string()),
        ("prompt", pa.string()),
        ("messages", pa.string()),
        ("system", pa.string()),
        ("tools", pa.string()),
        ("max_tokens", pa.int64()),
        ("temperature", pa.float64()),
        ("sampling", pa.string()),
        ("response_schema", pa.string()),
        ("reference", pa.string()),
        ("flaw", pa.string()),
    ]
)
"""A row as read, before its messages are rendered and hashed."""

INTEGERS = frozenset(
    f"{sign}{width}" for sign in ("", "U") for width in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
)
MOST_TOKENS = 2**31 - 1
EXACT = {"DOUBLE": 2**53, "FLOAT": 2**24}
"""From here on whole numbers of the type are no longer each their own."""


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """How a row becomes a request, where the job says so; texts are already read from their files."""

    id: tuple[str, ...] | None = None
    """Columns, joined with "/" where there are several."""
    system: str | None = field(default=None, repr=False)
    """Text, taken literally (braces and all); a row's `system` column beats it."""
    prompt: str | None = field(default=None, repr=False)
    """A template over plain column names: "Ticket: {body}"; `{{` and `}}` are braces."""
    task: str | None = None
    """A column, or else a task's name."""
    reference: str | None = None
    """A column."""
    metadata: tuple[str, ...] = ()
    """Columns that go into a request's metadata, beside those of a column `metadata`."""
    policy: str | None = None
    """The column that names a row's policy."""
    max_tokens: int = 1024
    temperature: float | None = 0.0
    """None: not sent."""
    response_schema: str | None = field(default=None, repr=False)
    """JSON text."""
    compose: bool = False
    """Whether texts are brought into Unicode's composed form (NFC)."""


def select_raw(columns: Mapping[str, str], spec: RequestSpec, described: str) -> str:
    """The select list that gives RAW's columns from `columns` (name → DuckDB type). InputError on a missing
    column.
    """
    flaws: list[str] = []
    table = _Table(columns, described, flaws)
    expressions = {
        "request_id": _id(table, spec, flaws),
        "task": _task(table, spec),
        "policy": f"nullif(trim({_policy(table, spec)}), '')",
        "metadata": _metadata(table, spec),
        **_content(table, spec, flaws),
        "system": f"coalesce(nullif({table.text_or_null('system')}, ''), {literal(spec.system)})",
        "tools": table.json_without_padding("tools"),
        "max_tokens": _max_tokens(table, spec, flaws),
        "temperature": _temperature(table, spec, flaws),
        "sampling": "null::varchar",
        "response_schema": _response_schema(table, spec),
        "reference": table.json_or_null(spec.reference or "reference", required=spec.reference is not None),
    }
    flaw = "case " + " ".join(flaws) + " end" if flaws else "null::varchar"
    lines = [f"{expression} as {name(column)}" for column, expression in expressions.items()]
    return ",\n".join([*lines, f"{flaw} as flaw"])


@dataclass(frozen=True, slots=True)
class _Table:
    columns: Mapping[str, str]
    described: str
    flaws: list[str]
    """What is wrong with a row, as branches of a `case`; grows as columns are used."""

    def has(self, column: str) -> bool:
        return column in self.columns

    def need(self, column: str, wanted_by: str) -> str:
        if column not in self.columns:
            raise InputError(
                f'input {self.described}: no column "{column}", which {wanted_by} needs{nearest(column, self.columns)}'
            )
        return name(column)

    def type(self, column: str) -> str:
        return self.columns[column].upper()

    def nested(self, column: str) -> bool:
        kind = self.type(column)
        return kind.startswith(("STRUCT", "MAP", "UNION")) or kind.endswith("]")

    def text(self, column: str) -> str:
        """The column as text. Bytes are read as the text that they are: Polars makes them of JSON, older writers of all
        text; a row where they are none is refused."""
        if self.type(column) != "BLOB":
            return f"{name(column)}::varchar"
        text = f"try(decode({name(column)}))"
        words = f"{column} holds bytes that are no text (a UUID, written as bytes? make it text)"
        flaw = f"when {name(column)} is not null and {text} is null then {quoted(words)}"
        if flaw not in self.flaws:
            self.flaws.append(flaw)
        return text

    def text_or_null(self, column: str) -> str:
        return self.text(column) if self.has(column) else "null::varchar"

    def json_without_padding(self, column: str) -> str:
        """The column as JSON text, marked where it was nested: Arrow fills structs up with nulls, which
        `messages` takes out."""
        text = self.json_or_null(column)
        return f"'{PADDED}' || {text}" if self.has(column) and self.nested(column) else text

    def json_or_null(self, column: str, *, required: bool = False) -> str:
        """Text as it is, nested values as JSON text."""
        if required:
            self.need(column, "the job's request")
        if not self.has(column):
            return "null::varchar"
        return f"to_json({name(column)})::varchar" if self.nested(column) else self.text(column)


def _id(table: _Table, spec: RequestSpec, flaws: list[str]) -> str:
    wanted_by = "every input (or name others under request.id)" if spec.id is None else "request.id"
    columns = spec.id or ("request_id",)
    for column in columns:
        table.need(column, wanted_by)
    parts = [table.text(column) for column in columns]
    whole = joined(parts)
    shown = " or ".join(columns)
    flaws.append(f"when {whole} is null then {quoted(f'{shown} is null')}")
    flaws.append(f"when trim({whole}) = '' then {quoted(f'{shown} is empty')}")
    for column in columns:
        if table.type(column) in ("DOUBLE", "FLOAT"):
            most = EXACT[table.type(column)]
            flaws.append(
                f"when abs({name(column)}) >= {most} then {quoted(f'{column} is a double, and so large a one is rounded')}"
            )
    return whole


def _task(table: _Table, spec: RequestSpec) -> str:
    if spec.task is not None and not table.has(spec.task):
        return literal(spec.task)
    return f"coalesce(nullif(trim({table.text_or_null(spec.task or 'task')}), ''), 'default')"


def _policy(table: _Table, spec: RequestSpec) -> str:
    if spec.policy is not None:
        table.need(spec.policy, "request.policy")
    return table.text_or_null(spec.policy or "policy")


def _metadata(table: _Table, spec: RequestSpec) -> str:
    """A row's metadata as a JSON object: its column of that name, and the columns that the job names."""
    own = _own_metadata(table)
    if not spec.metadata:
        return own
    pairs = [f"{quoted(column)}, {table.need(column, 'request.metadata')}" for column in spec.metadata]
    named = f"json_object({', '.join(pairs)})"
    if not table.has("metadata"):
        return f"{named}::varchar"
    return f"json_merge_patch(coalesce({own}, '{{}}'), {named})::varchar"


def _own_metadata(table: _Table) -> str:
    if not table.has("metadata"):
        return "null::varchar"
    if table.nested("metadata"):
        return 'to_json("metadata")::varchar'
    text = table.text("metadata")
    return f"case when json_valid({text}) then {text} else to_json({text})::varchar end"


def _content(table: _Table, spec: RequestSpec, flaws: list[str]) -> dict[str, str]:
    """The expressions of `prompt` and `messages`, of which a row needs one."""
    nothing = "null::varchar"
    if spec.prompt is not None:
        return {"prompt": _template(table, spec.prompt, flaws), "messages": nothing}
    has_prompt, has_messages = table.has("prompt"), table.has("messages")
    if not has_prompt and not has_messages:
        raise InputError(
            f'input {table.described}: neither a column "prompt" nor "messages", and the job renders none '
            f"(request.prompt){nearest('prompt', table.columns)}"
        )
    prompt = _plain(table, "prompt") if has_prompt else nothing
    messages = table.json_without_padding("messages")
    if has_prompt and has_messages and not table.nested("messages"):
        messages = f"nullif({messages}, '')"  # as CSV has it where a row has a prompt instead
    if has_prompt and not has_messages:
        flaws.append(f"when {prompt} is null then 'prompt is null'")
        flaws.append(f"when {_blank(prompt)} then 'prompt is empty'")
    elif has_messages and not has_prompt:
        flaws.append(f"when {messages} is null then 'messages is null'")
    else:
        flaws.append(
            f"when {messages} is null and coalesce({_blank(prompt)}, true) then 'prompt and messages are empty'"
        )
    return {"prompt": prompt, "messages": messages}


def _plain(table: _Table, column: str) -> str:
    if table.nested(column):
        raise InputError(
            f'input {table.described}: column "{column}" is {table.columns[column]}; it must be text'
            " (chat messages go into a column called messages)"
        )
    return table.text(column)


def _template(table: _Table, template: str, flaws: list[str]) -> str:
    pieces, columns = _parse(template)
    for column in columns:
        table.need(column, "request.prompt")
        flaws.append(
            f"when {name(column)} is null then {quoted(f'{column} is null, and the prompt needs it')}"
        )
    values = {column: table.json_or_null(column) for column in columns}
    all_blank = " and ".join(_blank(values[column]) for column in columns)
    flaws.append(
        f"when {all_blank} then {quoted(' and '.join(columns) + ' is empty, so the prompt says nothing')}"
    )
    return " || ".join(values[text] if is_column else quoted(text) for text, is_column in pieces)


def _parse(template: str) -> tuple[list[tuple[str, bool]], list[str]]:
    """Pieces as (text, whether it is a column's name), and the columns in order."""
    pieces: list[tuple[str, bool]] = []
    try:
        for text, field_name, form, conversion in string.Formatter().parse(template):
            if text:
                pieces.append((text, False))
            if field_name is None:
                continue
            if form or conversion or not field_name or set("[]") & set(field_name):
                raise InputError(
                    f'request.prompt: "{{{field_name}}}" is no plain column name; write {{column}}'
                )
            pieces.append((field_name, True))
    except ValueError as error:
        raise InputError(
            f"request.prompt: {error}; a brace that is meant as such is written twice"
        ) from error
    columns = list(dict.fromkeys(text for text, is_column in pieces if is_column))
    if not columns:
        raise InputError(
            "request.prompt names no column, so all rows would ask the same; write {column} where a value goes"
        )
    return pieces, columns


def _blank(expression: str) -> str:
    return rf"regexp_full_match({expression}, '\s*')"


def _response_schema(table: _Table, spec: RequestSpec) -> str:
    own = table.json_without_padding("response_schema")
    return f"coalesce(nullif({own}, ''), {literal(spec.response_schema)})"


def _max_tokens(table: _Table, spec: RequestSpec, flaws: list[str]) -> str:
    if not table.has("max_tokens"):
        return f"{spec.max_tokens}::bigint"
    column = name("max_tokens")
    if table.type("max_tokens") in INTEGERS:
        value = f"{column}::hugeint"
    else:
        number = f"try_cast({column}::varchar as double)"
        value = f"case when {number} = floor({number}) then try_cast({number} as hugeint) end"
    flaws.append(
        f"when {column} is not null and coalesce({value} not between 1 and {MOST_TOKENS}, true) "
        f"then 'max_tokens is ' || left({column}::varchar, 40) || '; it must be a whole number from 1 to {MOST_TOKENS}'"
    )
    return f"coalesce(try_cast({value} as bigint), {spec.max_tokens})"


def _temperature(table: _Table, spec: RequestSpec, flaws: list[str]) -> str:
    default = "null::double" if spec.temperature is None else f"{float(spec.temperature)!r}::double"
    if not table.has("temperature"):
        return default
    column = name("temperature")
    value = f"try_cast({column}::varchar as double)"
    flaws.append(
        f"when {column} is not null and not coalesce(isfinite({value}) and {value} >= 0, false) "
        f"then 'temperature is ' || left({column}::varchar, 40) || '; it must be a number from 0'"
    )
    return f"coalesce({value}, {default})"


def literal(text: str | None) -> str:
    return "null::varchar" if text is None else quoted(text)
