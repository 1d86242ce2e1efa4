"""What one key of a job has to do with another, with files and with the environment.

Each check looks at the data as read, which may have any shape, and names what it finds; wrong types are the
models' to tell, so a check passes them by.
"""

from __future__ import annotations

import copy
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from thirdshift.engines.registry import batch_tier_missing, batch_tiers
from thirdshift.flows.errors import Mistake, nearest
from thirdshift.flows.jobs.files import names_a_file, text_of
from thirdshift.flows.jobs.parsing import Document, Loc
from thirdshift.flows.jobs.provider_keys import DEFAULT_KEYS
from thirdshift.flows.jobs.quality_checks import check_quality
from thirdshift.flows.jobs.redaction import SECRET
from thirdshift.flows.jobs.unsupported import found, refused
from thirdshift.router.certification.scorers import FIELD_SCORERS, Scorer, ScorerError, check, kind_of
from thirdshift.router.pricing.service import OWN_KEYS, STANDARD_TIERS, own_keys_fault
from thirdshift.warehouse.errors import InputError
from thirdshift.warehouse.intake.messages import schema_problem
from thirdshift.warehouse.intake.sources import find

Finds = Iterator[tuple[Loc, str]]


WORKERS_ONLY = (
    "device",
    "workers",
    "usd_per_hour",
    "accounting_usd_per_hour",
    "minimum_minutes",
    "vllm",
    "python",
)
"""Keys of an endpoint that say how workers are started and paid."""

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


def checked(document: Document, environ: Mapping[str, str] | None) -> tuple[dict[str, Any], list[Mistake]]:
    """The job's data with the files that `request:` names read in, and every mistake found on the way."""
    data = copy.deepcopy(document.data)
    base = document.path.resolve().parent
    finds = [*refused(document), *_files(document, data), *check_quality(data, base)]
    for one in CHECKS:
        finds += one(document.data)
    if environ is not None:
        finds += [*_keys(document.data, environ), *_batch_tiers(document.data)]
    return data, [*document.mistakes, *(document.mistake(loc, what) for loc, what in finds)]


def _endpoints(data: dict[str, Any]) -> list[tuple[Loc, dict[str, Any]]]:
    return [(loc, one) for loc, one in found(data, ["endpoints", "[]"]) if isinstance(one, dict)]


def _texts(data: dict[str, Any], place: str) -> list[tuple[Loc, str]]:
    return [(loc, one) for loc, one in found(data, place.split(".")) if isinstance(one, str)]


# --- within the job ---------------------------------------------------------------------------------------


def _names_are_unique(data: dict[str, Any]) -> Finds:
    names = [(loc, one.get("name")) for loc, one in _endpoints(data)]
    counts = Counter(name for _, name in names if isinstance(name, str))
    for loc, name in names:
        if isinstance(name, str) and counts[name] > 1:
            counts[name] = 0  # told once, at the first
            yield (*loc, "name"), f"more than one endpoint is called {name}; give each a name of its own"


def _named_endpoints_exist(data: dict[str, Any]) -> Finds:
    told = [one["name"] for _, one in _endpoints(data) if isinstance(one.get("name"), str)]
    names = list(dict.fromkeys(told))
    for place in ("quality.relative_to", "quality.judge.endpoint"):
        for loc, name in _texts(data, place):
            if name not in names:
                yield (
                    loc,
                    f"no endpoint called {name!r}; endpoints are {', '.join(names)}{nearest(name, names)}",
                )


def _reuse_is_no_sample(data: dict[str, Any]) -> Finds:
    """A floor relative to an endpoint is tested on a random sample of its answers; reused ones are not."""
    for loc, value in _texts(data, "reuse"):
        if value == "answered" and _texts(data, "quality.relative_to"):
            yield loc, "answered does not work yet with quality.relative_to; leave one of them out"
        if value == "answered" and data.get("dedupe") is False:
            yield loc, "answered gives equal requests one answer; leave out dedupe: false, or reuse"


def _scorer_can_be_used(data: dict[str, Any]) -> Finds:
    """The name, the pattern and the fields, each at its own place."""
    pattern = next(iter(_texts(data, "quality.pattern")), None)
    for loc, name in _texts(data, "quality.scorer"):
        yield from _refusal(loc, partial(kind_of, Scorer(name)))
        if name == "fields" and not any(True for _ in found(data, ["quality", "fields"])):
            yield loc, "scorer fields needs quality.fields: which JSON field is compared by which scorer"
        if name != "regex" and pattern is not None:
            yield pattern[0], f"is for scorer regex; the scorer is {name}"
    if pattern is not None:
        yield from _refusal(pattern[0], partial(check, Scorer("regex", pattern[1])))
    for loc, fields in found(data, ["quality", "fields"]):
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


def _workers_are_whole(data: dict[str, Any]) -> Finds:
    for loc, one in _endpoints(data):
        if one.get("engine") == "vllm":
            yield from _worker(loc, one)
            continue
        for key in WORKERS_ONLY:
            if one.get(key) is not None and not (key == "usd_per_hour" and one.get("api_base") is not None):
                yield (*loc, key), "is for engine: vllm; this endpoint has none"
        yield from _server(loc, one)


def _server(loc: Loc, one: dict[str, Any]) -> Finds:
    """A server of the user's, that the job starts or that is paid by the hour."""
    health = one.get("health")
    if isinstance(health, str) and not re.match(r"https?://\S+$", health):
        yield (*loc, "health"), "is a URL (http://…/health) that answers 200 when the server is ready"
    for key in ("up", "health"):
        if one.get(key) is not None and one.get("api_base") is None:
            yield (*loc, key), "is of a server that has an api_base; say where it answers"
        if one.get(key) is not None and one.get("mode") == "batch":
            yield (*loc, key), "does not go with mode: batch, which goes on when the server is down"
    if one.get("down") is not None and one.get("up") is None:
        yield (*loc, "down"), "stops what `up` starts; state both"
    if one.get("usd_per_hour") is not None and one.get("price") is not None:
        yield (*loc, "price"), "is by the token and usd_per_hour by the hour; state one of them"


def _worker(loc: Loc, one: dict[str, Any]) -> Finds:
    if one.get("device") is None:
        yield (*loc, "device"), "is required with engine: vllm; devices are cuda, npu, cpu"
    if one.get("usd_per_hour") is None and one.get("accounting_usd_per_hour") is None:
        yield (
            (*loc, "usd_per_hour"),
            "is required (0 if it costs nothing), or accounting_usd_per_hour for hardware already paid",
        )
    for key in ("api_base", "api_key_env", "price", "off_peak", "up", "health", "down"):
        if one.get(key) is not None:
            yield (
                (*loc, key),
                "does not go with engine: vllm, whose workers run here and are paid by the hour",
            )
    if one.get("mode") not in {None, "realtime"}:
        yield (*loc, "mode"), "does not go with engine: vllm, whose workers have one price"


def _no_keys_within(data: dict[str, Any]) -> Finds:
    for loc, one in _endpoints(data):
        for place in _secrets(one.get("params"), (*loc, "params")):
            yield place, "looks like a key; put it in a variable and name that: api_key_env: SOME_KEY"
        base = one.get("api_base")
        if isinstance(base, str) and "@" in base.partition("://")[2].partition("/")[0]:
            yield (
                (*loc, "api_base"),
                "holds a user or password; put a key in a variable: api_key_env: SOME_KEY",
            )


def _secrets(value: Any, loc: Loc) -> Iterator[Loc]:
    if isinstance(value, dict):
        for key, one in value.items():
            if SECRET.search(key):
                yield (*loc, key)
            else:
                yield from _secrets(one, (*loc, key))


def _params_leave_ours_alone(data: dict[str, Any]) -> Finds:
    """What would change a request's ceiling or the number of answers, and tiers that contradict the mode."""
    for loc, one in _endpoints(data):
        params, mode = one.get("params"), one.get("mode", "realtime")
        if not isinstance(params, dict):
            continue
        taken = OWN_KEYS & {str(key) for key in params}
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
    _workers_are_whole,
    _no_keys_within,
    _params_leave_ours_alone,
)

# --- the environment and the files ------------------------------------------------------------------------


def _keys(data: dict[str, Any], environ: Mapping[str, str]) -> Finds:
    for loc, one in _endpoints(data):
        stated, model = one.get("api_key_env"), one.get("model")
        if isinstance(stated, str):
            if not VARIABLE.fullmatch(stated):  # which is not quoted: it may be a key
                yield (*loc, "api_key_env"), "must be the name of a variable, like SOME_KEY, never a key"
            elif not environ.get(stated):
                yield (*loc, "api_key_env"), f"the variable {stated} is not set; export {stated}=…"
        elif isinstance(model, str) and one.get("api_base") is None and one.get("engine") is None:
            names = DEFAULT_KEYS.get(model.partition("/")[0], ())
            if names and not any(environ.get(name) for name in names):
                yield (
                    (*loc, "api_key_env"),
                    f"no key for {model}: export {names[0]}=…, or name the variable that has it",
                )


def _batch_tiers(data: dict[str, Any]) -> Finds:
    """Not of a rehearsal, whose provider has every endpoint's."""
    for loc, one in _endpoints(data):
        model, base = one.get("model"), one.get("api_base")
        if one.get("mode") != "batch" or not isinstance(model, str) or one.get("engine") is not None:
            continue
        missing = batch_tier_missing(model, base)
        if missing is not None:
            built = f"{batch_tiers()}, and for an api_base that speaks OpenAI's files and batches"
            yield (*loc, "mode"), f"batch does not work yet for {missing}; it does for {built}"


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
