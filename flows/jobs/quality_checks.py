"""Check what scoring needs besides the job file: a rubric's text, a user's function, an endpoint that may judge."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from thirdshift.flows.errors import nearest
from thirdshift.flows.jobs.parsing import Loc
from thirdshift.router.certification.scorers import KINDS, Need, ScorerError, UserFunction

Finds = Iterator[tuple[Loc, str]]


def imported(name: str, base: Path) -> UserFunction:
    """Import the function that `package.module:function` names, from the job's folder or as installed.

    It is the user's code, run in this process. Raises ScorerError: no such module or function, or it fails on import.
    """
    module_name, _, function_name = name.partition(":")
    if str(base) not in sys.path:
        sys.path.append(str(base))  # behind what is installed: a json.py beside a job must not become json
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ScorerError(f"{name}: importing {module_name} needs {error.name}; install it") from error
        raise ScorerError(f"{name}: no module {module_name} in {base}, and none is installed") from error
    except Exception as error:
        raise ScorerError(
            f"{name}: importing {module_name} raised {type(error).__name__}: {error}"
        ) from error
    candidate = getattr(module, function_name, None)
    if not callable(candidate):
        known = [
            attribute
            for attribute in vars(module)
            if callable(vars(module)[attribute]) and not attribute.startswith("_")
        ]
        raise ScorerError(
            f"{name}: {module.__file__} has no function {function_name!r}{nearest(function_name, known)}"
        )
    function: UserFunction = candidate
    return function


def check_quality(data: dict[str, Any], base: Path) -> Finds:
    """Yield the mistakes of `quality:` that the models cannot see; a rubric that is a file is read into `data`."""
    quality = data.get("quality", {})
    if not isinstance(quality, dict):
        return
    scorer = quality.get("scorer")
    if isinstance(scorer, str) and ":" in scorer:
        try:
            imported(scorer, base)
        except ScorerError as error:
            yield ("quality", "scorer"), str(error)
    output = data.get("output")
    if (
        isinstance(output, dict)
        and output.get("when") == "certified"
        and not (scorer and quality.get("floor"))
    ):
        yield (
            ("output", "when"),
            "certified needs quality.scorer and quality.floor: nothing else is certified",
        )
    if scorer == "judge" and quality.get("judge") is None:
        yield ("quality", "judge"), "is required with scorer judge: {endpoint: …, rubric: rubric.md}"
    if scorer == "agreement" and quality.get("relative_to") is None:
        yield (
            ("quality", "relative_to"),
            "is required with scorer agreement: the endpoint whose answers are agreed with",
        )
    if quality.get("references") == "sample" and not _by_reference(quality):
        yield (
            ("quality", "references"),
            "sample needs a scorer that takes references (exact, choice, numeric, contains, fields, regex without pattern)",
        )
    yield from _roles(data, quality)
    if scorer == "judge":
        yield from _rubric(quality.get("judge"), base)


def _by_reference(quality: dict[str, Any]) -> bool:
    """Whether a score takes a row's reference."""
    kind = KINDS.get(str(quality.get("scorer")))
    pattern = quality.get("scorer") == "regex" and quality.get("pattern") is not None
    return kind is not None and Need.REFERENCE in kind.needs and not pattern


def _roles(data: dict[str, Any], quality: dict[str, Any]) -> Finds:
    """Check that an endpoint that only judges does, is not the baseline, and that another one answers."""
    endpoints = data.get("endpoints")
    stated = (
        [endpoint for endpoint in endpoints if isinstance(endpoint, dict)]
        if isinstance(endpoints, list)
        else list[Any]()
    )
    judges = [endpoint.get("name") for endpoint in stated if endpoint.get("only") == "judge"]
    baseline = quality.get("relative_to")
    judge = quality.get("judge")
    named = judge.get("endpoint") if isinstance(judge, dict) else None
    for number, endpoint in enumerate(stated):
        if endpoint.get("only") == "judge" and endpoint.get("name") != named:
            who = "names none" if named is None else f"names {named}"
            yield (
                ("endpoints", number, "only"),
                f"judge is for the endpoint that quality.judge names, which {who}",
            )
    if stated and len(judges) == len(stated):
        yield ("endpoints",), "all of them only judge; nobody is left to answer"
    if baseline is not None and baseline in judges:
        yield ("quality", "relative_to"), f"{baseline} only judges: it has no answers of its own"


def _rubric(judge: Any, base: Path) -> Finds:
    from thirdshift.flows.jobs.files import names_a_file, text_of

    if not isinstance(judge, dict) or not isinstance(judge.get("rubric"), str):
        return
    rubric = judge["rubric"]
    text = text_of(base, rubric)
    if text is None and names_a_file(rubric):
        yield (
            ("quality", "judge", "rubric"),
            f"no file {rubric} beside the job; a text that is meant as such has spaces",
        )
    elif text is not None:
        judge["rubric"] = text
    if not judge["rubric"].strip():
        yield ("quality", "judge", "rubric"), "is empty: say what makes an answer good"
