"""Write a commented job file for the data at hand, which `plan` takes as it stands: the work of `init`."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thirdshift.engines.devices import machine
from thirdshift.flows.errors import UserError, check_names_a_file
from thirdshift.flows.init.candidates import HOUR_USD, HOUSE_MODEL, Endpoints, endpoints_for, with_servers
from thirdshift.flows.init.inference import CHARACTERS_PER_TOKEN, Choice, NoPrompt, Proposal, propose
from thirdshift.flows.init.partitions import Partitioned, by_day, job_name
from thirdshift.flows.init.servers import NoModels, ServedModel, served_at, usual_servers
from thirdshift.flows.jobs.job import load_job
from thirdshift.flows.models.registry import load_registry, plain
from thirdshift.warehouse.errors import InputError
from thirdshift.warehouse.intake.sampling import READERS, InputSample, sample

LATEST_DAY = "the latest day there is; another: --param ds=…"
LIKELY_OUTPUT = 0.35
"""The share of max_tokens that the planner, too, expects of an answer before it has seen one, rounded up."""


def write_job(
    source: str,
    output: Path,
    *,
    force: bool,
    environ: Mapping[str, str] = os.environ,
    server: str | None = None,
    key_variable: str | None = None,
    ports: Iterable[int] = (),
) -> int:
    """Sample `source`, write the job, print what was chosen and why; return 0.

    `server`: a URL whose models become the endpoints, with the key that `key_variable` holds; `ports` of this machine are
    asked for servers to offer.
    Raises UserError: the input is unreadable or empty, `output` is there already, or it cannot be written.
    """
    if output.exists() and not force:
        raise UserError(
            f"{output} is there already; name another with --output, or overwrite it with --force"
        )
    try:
        data = sample(source, Path.cwd())
        proposal = propose(data)
        day = _day(data, proposal)
        if day is not None and day.latest != source:
            one_day = sample(day.latest, Path.cwd())
            if one_day.rows:  # a run takes one day, and the cap is to be its
                data = replace(one_day, source=source)
                proposal = propose(data)
        served = () if server is None else _served(server, key_variable, environ)
    except (InputError, NoPrompt, NoModels) as error:
        raise UserError(str(error)) from error
    if not data.rows:
        raise UserError(f"input {source}: there is no row in it")
    endpoints = with_servers(
        endpoints_for(environ, machine(), load_registry()), served, tuple(usual_servers(ports))
    )
    _write(output, job_text(data, proposal, endpoints, output), environ)
    chosen = [] if day is None else [Choice("input", f"{day.key}={day.day}", LATEST_DAY)]
    _tell(output, [*chosen, *proposal.choices, *endpoints.choices])
    return 0


def _served(url: str, key_variable: str | None, environ: Mapping[str, str]) -> tuple[ServedModel, ...]:
    """Return the models of a server, asked with the key of a variable. Raises NoModels; UserError: no key is there."""
    if key_variable is None:
        return tuple(served_at(url))
    key = environ.get(key_variable)
    if not key:
        raise UserError(
            f"--api-key-env {key_variable}: this variable is not set; put the server's key into it"
        )
    return tuple(replace(model, api_key_env=key_variable) for model in served_at(url, key))


def job_text(data: InputSample, proposal: Proposal, endpoints: Endpoints, output: Path) -> str:
    """Return the job file's text; what comes from the data is written as YAML that cannot mean anything else."""
    environment = Environment(
        autoescape=False,  # noqa: S701 (YAML, not HTML: see the filter)
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["yaml"] = _flow
    template = files("thirdshift.flows.init").joinpath("init.yaml.j2").read_text(encoding="utf-8")
    likely, most = _cost(data, proposal, endpoints)
    place = _from(data.source, output)
    query = _query(data, proposal, place)
    day = _day(data, proposal)
    if day is not None:
        place = _from(day.pattern, output)
    return environment.from_string(template).render(
        source=plain(data.source), file=plain(output.name), name=job_name(data.source), input=place, day=day,
        query=query, batch_file=data.batch_file, p=proposal, e=endpoints, floor=endpoints.floor,
        cap=_rounded_up(likely), most=f"{most:,.2f}", house=HOUSE_MODEL, hour=HOUR_USD,
    )  # fmt: skip


def _flow(value: Any) -> str:
    """Write a value as YAML on one line: JSON is YAML."""
    if (
        isinstance(value, str)
        and re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", value)
        and value.lower() not in YAML_WORDS
    ):
        return value
    return json.dumps(value, ensure_ascii=False)


YAML_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def _from(source: str, output: Path) -> str:
    """Return the input as the job file must name it: relative paths are from there."""
    return source if "://" in source else os.path.relpath(source, output.resolve().parent)


def _query(data: InputSample, proposal: Proposal, place: str) -> str | None:
    """Return the query that reads the input; None where a plain input will do."""
    if not (data.by_query or proposal.numbered):
        return None
    ending = Path(data.source.removesuffix(".gz")).suffix.lower()
    reader = READERS.get(ending, "read_parquet({})")
    quoted = "'" + place.replace("'", "''") + "'"
    number = "row_number() over () as request_id, " if proposal.numbered else ""
    return f"select {number}* from {reader.format(quoted)}"


def _day(data: InputSample, proposal: Proposal) -> Partitioned | None:
    """Return the day that becomes a param; None where the input is not by the day, or a query reads it."""
    return None if data.by_query or proposal.numbered else by_day(data.source, Path.cwd())


def _cost(data: InputSample, proposal: Proposal, endpoints: Endpoints) -> tuple[float, float]:
    """Return what all requests cost on the dearest endpoint in USD: likely, and at most."""
    price_in, price_out = endpoints.dearest
    input_usd = proposal.prompt_characters / CHARACTERS_PER_TOKEN * price_in
    per_request = [input_usd + share * proposal.max_tokens * price_out for share in (LIKELY_OUTPUT, 1.0)]
    likely, most = (data.rows * usd / 1e6 for usd in per_request)
    return likely * 1.5, most


def _rounded_up(usd: float) -> str:
    """Round up to two figures, at least to a dollar."""
    if usd <= 1:
        return "1.00"
    step = 10 ** (math.floor(math.log10(usd)) - 1)
    return f"{math.ceil(usd / step) * step:.2f}"


def _write(output: Path, text: str, environ: Mapping[str, str]) -> None:
    """Write the job beside its place, check it as any job, and move it there. Raises UserError, JobError."""
    check_names_a_file(output)
    beside = output.with_name(f".{output.name}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        load_job(beside, environ=environ)
        os.replace(beside, output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)


def _tell(output: Path, choices: list[Choice]) -> None:
    console = Console(highlight=False)
    table = Table("", "chosen", "because", box=None, pad_edge=False)
    for choice in choices:
        table.add_row(*(Text(plain(text)) for text in (choice.what, choice.value, choice.why)))
    console.print(table)
    console.print(f"\n{output} is written. Next: thirdshift plan {output}", markup=False, soft_wrap=True)
