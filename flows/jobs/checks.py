"""Check how the keys of a job go with one another, with files and with the environment.

Each check takes the data as read, which may have any shape, and yields places with their mistakes; wrong types are
reported by the models, so a check passes over them.
"""

from __future__ import annotations

import copy
import os
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from thirdshift.engines.registry import tier_fault, tier_rows
from thirdshift.flows.errors import Mistake, nearest
from thirdshift.flows.jobs.files import names_a_file, text_of
from thirdshift.flows.jobs.parsing import Document, Loc
from thirdshift.flows.jobs.provider_keys import DEFAULT_KEYS
from thirdshift.flows.jobs.quality_checks import Finds, check_quality
from thirdshift.flows.jobs.redaction import SECRET
from thirdshift.flows.jobs.unsupported import refused, values_at
from thirdshift.flows.jobs.worker_checks import BATCH_LIMITS, clusters, endpoints_of, workers_are_whole
from thirdshift.router.certification.scorers import FIELD_SCORERS, Scorer, ScorerError, check, kind_of
from thirdshift.router.pricing.service import STANDARD_TIERS, own_keys, own_keys_fault
from thirdshift.warehouse.errors import InputError
from thirdshift.warehouse.intake.messages import schema_problem
from thirdshift.warehouse.intake.sources import find

NODES_SECRET = re.compile(rf"{SECRET.pattern}|_(token|key)$", re.IGNORECASE)
"""Names of variables in a `runtime_env` that people keep a secret in: HF_TOKEN, AWS_SECRET_ACCESS_KEY."""

BATCH_KEYS = ("window", "turnaround", "delete_remote")
"""Keys of an endpoint that say something of batches alone."""

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


def checked(document: Document, environ: Mapping[str, str] | None) -> tuple[dict[str, Any], list[Mistake]]:
    """Return the job's data with the files that `request:` names read in, and every mistake found.

    `environ`: where variables with keys are looked up; None: they are not checked.
    """
    data = copy.deepcopy(document.data)
    base = document.path.resolve().parent
    finds = [
        *refused(document),
        *_files(document, data),
        *check_quality(data, base),
        *_written_apart(data, base),
    ]
    for check_job in CHECKS:
        finds += check_job(document.data)
    if environ is not None:
        finds += [
            *_keys(document.data, environ),
            *_batch_tiers(document.data),
            *clusters(document.data, environ),
            *_webhook(document.data, environ),
        ]
    return data, [*document.mistakes, *(document.mistake(loc, what) for loc, what in finds)]


def _texts(data: dict[str, Any], place: str) -> list[tuple[Loc, str]]:
    return [(loc, value) for loc, value in values_at(data, place.split(".")) if isinstance(value, str)]


# --- within the job ---------------------------------------------------------------------------------------


def _names_are_unique(data: dict[str, Any]) -> Finds:
    names = [(loc, endpoint.get("name")) for loc, endpoint in endpoints_of(data)]
    counts = Counter(name for _, name in names if isinstance(name, str))
    for loc, name in names:
        if isinstance(name, str) and counts[name] > 1:
            counts[name] = 0  # reported once, at the first
            yield (*loc, "name"), f"more than one endpoint is called {name}; give each a name of its own"


def _named_endpoints_exist(data: dict[str, Any]) -> Finds:
    stated = [endpoint["name"] for _, endpoint in endpoints_of(data) if isinstance(endpoint.get("name"), str)]
    names = list(dict.fromkeys(stated))
    for place in ("quality.relative_to", "quality.judge.endpoint"):
        for loc, name in _texts(data, place):
            if name not in names:
                yield (
                    loc,
                    f"no endpoint called {name!r}; endpoints are {', '.join(names)}{nearest(name, names)}",
                )


def _reuse_is_no_sample(data: dict[str, Any]) -> Finds:
    """Refuse reuse with a relative floor, which is tested on a random sample of answers; reused ones are none."""
    for loc, value in _texts(data, "reuse"):
        if value == "answered" and _texts(data, "quality.relative_to"):
            yield loc, "answered does not work yet with quality.relative_to; leave one of them out"
        if value == "answered" and data.get("dedupe") is False:
            yield loc, "answered gives equal requests one answer; leave out dedupe: false, or reuse"


def _scorer_can_be_used(data: dict[str, Any]) -> Finds:
    """Check the scorer's name, its pattern and its fields, each at its own place."""
    pattern = next(iter(_texts(data, "quality.pattern")), None)
    for loc, name in _texts(data, "quality.scorer"):
        yield from _refusal(loc, partial(kind_of, Scorer(name)))
        if name == "fields" and not any(fields for _, fields in values_at(data, ["quality", "fields"])):
            yield loc, "scorer fields needs quality.fields: which JSON field is compared by which scorer"
        if name != "regex" and pattern is not None:
            yield pattern[0], f"is for scorer regex; the scorer is {name}"
    if pattern is not None:
        yield from _refusal(pattern[0], partial(check, Scorer("regex", pattern[1])))
    for loc, fields in values_at(data, ["quality", "fields"]):
        for key, name in fields.items() if isinstance(fields, dict) else ():
            if isinstance(name, str) and name not in FIELD_SCORERS:
                known = ", ".join(FIELD_SCORERS)
                yield (
                    (*loc, key),
                    f"no scorer of fields called {name!r}; they are {known}{nearest(name, FIELD_SCORERS)}",
                )


def _refusal(loc: Loc, use: Callable[[], object]) -> Finds:
    try:
        use()
    except ScorerError as error:
        yield loc, str(error).removeprefix("quality.pattern ")


def _prompt_names_columns(data: dict[str, Any]) -> Finds:
    for loc, prompt in _texts(data, "request.prompt"):
        try:
            pieces = list(string.Formatter().parse(prompt))
        except ValueError as error:
            yield loc, f"{error}; a brace that is meant as such is written twice"
            continue
        columns = [(name, form, conversion) for _, name, form, conversion in pieces if name is not None]
        for name, form, conversion in columns:
            if form or conversion or not re.fullmatch(r"[^\W\d][\w -]*", name):
                yield (
                    loc,
                    f"{{{name}}} is no plain column name; write {{column}}, without dots or formats",
                )
        if not columns:
            yield loc, "names no column, so all rows would ask the same; write {column} where a value goes"


def _no_keys_within(data: dict[str, Any]) -> Finds:
    for loc, endpoint in endpoints_of(data):
        for place in _secrets(endpoint.get("params"), (*loc, "params")):
            yield place, "looks like a key; put it in a variable and name that: api_key_env: SOME_KEY"
        cluster = endpoint.get("cluster")
        for place in _secrets(cluster, (*loc, "cluster"), NODES_SECRET):
            yield place, "looks like a key; set the variable where Ray runs on the nodes"
        base = endpoint.get("api_base")
        if isinstance(base, str) and "@" in base.partition("://")[2].partition("/")[0]:
            yield (
                (*loc, "api_base"),
                "holds a user or password; put a key in a variable: api_key_env: SOME_KEY",
            )


def _secrets(value: Any, loc: Loc, names: re.Pattern[str] = SECRET) -> Iterator[Loc]:
    if isinstance(value, dict):
        for key, child in value.items():
            if names.search(key):
                yield (*loc, key)
            else:
                yield from _secrets(child, (*loc, key), names)


def _batch_keys(data: dict[str, Any]) -> Finds:
    """Refuse what is asked of a batch where there is none, or of a tier that cannot be asked for it."""
    for loc, endpoint in endpoints_of(data):
        stated = endpoint.get("limits")
        limits = [key for key in BATCH_LIMITS if isinstance(stated, dict) and stated.get(key) is not None]
        if endpoint.get("mode") != "batch":
            yield from (((*loc, "limits", key), "is of batches; it wants mode: batch") for key in limits)
            stated_keys = [key for key in BATCH_KEYS if endpoint.get(key) not in (None, False)]
            yield from (((*loc, key), "is of batches; it wants mode: batch") for key in stated_keys)
            continue
        base, model = endpoint.get("api_base"), endpoint.get("model")
        tier = tier_rows().of(str(model), base if isinstance(base, str) else None)
        if endpoint.get("window") is not None and tier is not None and tier.window_key == "none":
            yield (*loc, "window"), f"cannot be asked of {tier.title}: its window is its own"


def _params_leave_ours_alone(data: dict[str, Any]) -> Finds:
    """Refuse what would change a request's ceiling or the number of answers, and tiers that contradict the mode."""
    for loc, endpoint in endpoints_of(data):
        params, mode = endpoint.get("params"), endpoint.get("mode", "realtime")
        if not isinstance(params, dict):
            continue
        taken = own_keys(params)
        if taken:
            yield (*loc, "params"), own_keys_fault(taken)
        tier = params.get("service_tier")
        if isinstance(tier, str) and mode != "realtime" and tier not in (mode, *STANDARD_TIERS):
            yield (
                (*loc, "params"),
                f"service_tier {tier} and mode {mode} contradict each other; say one of them",
            )


CHECKS = (
    _names_are_unique,
    _named_endpoints_exist,
    _reuse_is_no_sample,
    _scorer_can_be_used,
    _prompt_names_columns,
    workers_are_whole,
    _no_keys_within,
    _params_leave_ours_alone,
    _batch_keys,
)

# --- the environment and the files ------------------------------------------------------------------------


def _keys(data: dict[str, Any], environ: Mapping[str, str]) -> Finds:
    for loc, endpoint in endpoints_of(data):
        stated, model = endpoint.get("api_key_env"), endpoint.get("model")
        if isinstance(stated, str):
            if not VARIABLE.fullmatch(stated):  # which is not quoted: it may be a key
                yield (*loc, "api_key_env"), "must be the name of a variable, like SOME_KEY, never a key"
            elif not environ.get(stated):
                yield (*loc, "api_key_env"), f"the variable {stated} is not set; export {stated}=…"
        elif isinstance(model, str) and endpoint.get("api_base") is None and endpoint.get("engine") is None:
            names = DEFAULT_KEYS.get(model.partition("/")[0], ()) or _tier_keys(model, endpoint)
            if names and not any(environ.get(name) for name in names):
                yield (
                    (*loc, "api_key_env"),
                    f"no key for {model}: export {names[0]}=…, or name the variable that has it",
                )


def _webhook(data: dict[str, Any], environ: Mapping[str, str]) -> Finds:
    for loc, stated in _texts(data, "notify.url_env"):
        url = environ.get(stated) if VARIABLE.fullmatch(stated) else None
        if not VARIABLE.fullmatch(stated):  # which is not quoted: it may be the URL, and that is a secret
            yield loc, "must be the name of a variable, like SLACK_WEBHOOK, never a URL"
        elif not url:
            yield loc, f"the variable {stated} is not set; export {stated}=https://…"
        elif not re.match(r"https?://[^\s/]+\S*$", url):
            yield loc, f"the variable {stated} holds no URL; export {stated}=https://…"


def _tier_keys(model: str, endpoint: Mapping[str, Any]) -> tuple[str, ...]:
    tier = tier_rows().of(model, None) if endpoint.get("mode") == "batch" else None
    return () if tier is None else tier.key


def _batch_tiers(data: dict[str, Any]) -> Finds:
    """Check that each batch endpoint has a batch tier; not for a rehearsal, whose emulated provider has them all."""
    for loc, endpoint in endpoints_of(data):
        model, base = endpoint.get("model"), endpoint.get("api_base")
        if (
            endpoint.get("mode") != "batch"
            or not isinstance(model, str)
            or endpoint.get("engine") is not None
        ):
            continue
        base = base if isinstance(base, str) else None
        tier = tier_rows().of(model, base)
        fault = tier_fault(tier, model.partition("/")[0], base)
        if fault is not None:
            yield (*loc, "mode"), fault
        elif tier is not None and endpoint.get("retention") == "zero" and tier.zero_retention is False:
            yield (*loc, "retention"), f"zero retention and batches exclude each other at {tier.title}"


def _files(document: Document, data: dict[str, Any]) -> Finds:
    """Read the files that `request:` names into `data`."""
    request = data.get("request")
    if not isinstance(request, dict):
        return
    base = document.path.parent
    system, schema = request.get("system"), request.get("response_schema")
    if isinstance(system, str):
        text = text_of(base, system)
        request["system"] = system if text is None else text
        if text is None and names_a_file(system):
            yield (
                ("request", "system"),
                f"no file {system} beside the job; a text that is meant as such has spaces",
            )
    if isinstance(schema, str):
        text = text_of(base, schema)
        if text is None:
            yield ("request", "response_schema"), f"no file {schema} beside the job, or it is not UTF-8 text"
            return
        request["response_schema"] = text
        problem = schema_problem(text)
        if problem is not None:
            yield ("request", "response_schema"), f"{schema}: {problem}"


def _written_apart(data: dict[str, Any], base: Path) -> Finds:
    """Check that what a run writes is not what it, or the next one, reads."""
    source, copy = data.get("input"), data.get("warehouse_copy")
    for key, place in (("warehouse", data.get("warehouse", "warehouse.duckdb")), ("input", source)):
        if isinstance(copy, str) and isinstance(place, str) and _at(base, copy) == _at(base, place):
            yield ("warehouse_copy",), f"is the {key} itself; name another file"
    for loc, path in _texts(data, "output.path"):
        if not isinstance(source, str) or not ("://" in source or os.path.isdir(base / source)):
            continue
        if f"{_at(base, path)}/".startswith(f"{_at(base, source)}/"):
            yield (
                loc,
                f"is within input {source}, so that the next run would read its answers; name another folder",
            )


def _at(base: Path, place: str) -> str:
    return place.rstrip("/") if "://" in place else os.path.abspath(base / place)


def missing_input(document: Document) -> list[Mistake]:
    """What is told of the input beside other mistakes. By itself it is looked for when it is read: a run that goes on has
    its own copy."""
    source = document.data.get("input")
    if not isinstance(source, str) or "://" in source:
        return []
    try:
        find(source, document.path.resolve().parent)
    except InputError as error:
        return [document.mistake(("input",), str(error).removeprefix(f"input {source}: "))]
    return []
