"""Generate docs/job-file.md from the job file's models: every key, its type, its default and its line.

.venv/bin/python -m thirdshift.flows.jobs.reference > docs/job-file.md
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from thirdshift.flows.jobs.job import Job
from thirdshift.flows.jobs.schema import JobSection, section_of
from thirdshift.flows.jobs.unsupported import NOT_YET
from thirdshift.flows.jobs.value_types import Seconds

OPENING = """\
# The job file

Generated from the models that read it (`python -m thirdshift.flows.jobs.reference > docs/job-file.md`; a test compares).
YAML; `${name}` stands for a param; relative paths are from the job file. An unknown key, a wrong type or a missing price is
exit 2, with every mistake listed at its line. What a key refuses says so, and why.
"""
NAMES: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    Decimal: "number",
    bool: "true or false",
    Any: "any value",
    types.NoneType: "null",
}


def reference() -> str:
    """Return the page as Markdown."""
    shown = dict(_parts("", Job))
    sections = [_table("The job", "", Job, shown)]
    sections += [_table(f"`{place}`", f"{place}.", part, shown) for part, place in shown.items()]
    return "\n".join([OPENING, *sections])


def _parts(place: str, model: type[BaseModel]) -> Iterator[tuple[type[BaseModel], str]]:
    """Yield every model within a model, and the first place in a job where it stands."""
    seen: set[type[BaseModel]] = set()
    for name, field in model.model_fields.items():
        part = section_of(field.annotation)
        if part is None or part in seen:
            continue
        path = f"{place}{name}[]" if "tuple" in str(field.annotation) else f"{place}{name}"
        inner = [inner_part for inner_part in _parts(f"{path}.", part) if inner_part[0] not in seen]
        seen |= {part, *(inner_model for inner_model, _ in inner)}
        yield part, path
        yield from inner


def _table(title: str, place: str, model: type[BaseModel], shown: dict[type[BaseModel], str]) -> str:
    descriptions = docstrings(model)
    rows = [f"## {title}\n", "| key | type | default | |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        text = descriptions[name] + (" *Some values do not work yet.*" if f"{place}{name}" in NOT_YET else "")
        rows.append(f"| `{name}` | {_kind(field.annotation, shown)} | {_default(field)} | {text} |")
    return "\n".join([*rows, ""])


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field, on one line; those of the models that it extends too."""
    texts: dict[str, str] = {}
    for section in reversed([cls for cls in model.__mro__ if issubclass(cls, JobSection)]):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
        lines = body.body if isinstance(body, ast.ClassDef) else []
        for line, after in pairwise(lines):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                match after:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        texts[line.target.id] = " ".join(text.split()).replace("|", "\\|")
    return texts


def _kind(annotation: Any, shown: dict[type[BaseModel], str]) -> str:
    """Return a type in a reader's words; a section by the place where its keys stand."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation == Seconds:
        return "time, like `90d`, `8h`, `30m`"
    if annotation in shown:
        place = shown[annotation]
        return f"keys of [{place}](#{re.sub(r'[^a-z_-]', '', place)})"
    if origin is Annotated:
        return _kind(inner[0], shown)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in {Union, types.UnionType}:
        kinds = dict.fromkeys(_kind(argument, shown) for argument in inner if argument is not types.NoneType)
        return " or ".join(kinds)
    if origin is tuple:
        return f"list of {_kind(inner[0], shown)}"
    if origin is dict:
        return f"names to {_kind(inner[1], shown)}"
    return NAMES[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.default
    if value is None or value in ({}, ()) or isinstance(value, BaseModel):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    print(reference(), end="")
