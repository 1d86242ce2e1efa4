"""The table of packages, held: who imports whom, where foreign libraries live, how long a module may be."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support import architecture
from tests.support.imports import (
    FREE,
    MODULES,
    NAMES,
    PACKAGES,
    TABLE,
    imported,
    name_of,
    ours,
    part_of,
    tree,
)
from tests.support.paths import ROOT

HOMES = {
    "prefect": {"flows"},
    "typer": {"flows"},
    "rich": {"flows"},
    "jinja2": {"flows"},
    "matplotlib": {"flows"},
    "prompt_toolkit": {"flows"},
    "pydantic": {"flows", "router"},  # where text from outside becomes a value: the job file, the catalogue
    "pydantic_core": {"flows"},
    "yaml": {"flows"},
    "litellm": {"engines"},
    "vllm": {"engines"},
    "ray": {"engines/ray"},
    "aiohttp": {"engines"},
    "orjson": {"engines", "warehouse"},
    "tokenizers": {"engines"},
    "tiktoken": {"engines"},
    "psutil": {"engines", "flows"},
    "stamina": {"engines", "warehouse", "flows"},
    "opentelemetry": {"flows"},
    "tenacity": {"warehouse"},
    "botocore": {"warehouse"},
    "duckdb": {"warehouse"},
    "fsspec": {"warehouse"},
    "highspy": {"router"},
    "scipy": {"router"},
    "threadpoolctl": {"router"},
    "regex": {"router", "engines"},  # the emulated provider must err as the scorers read
    # one meaning of `valid` for input, replies and scores: router/json_schemas
    "jsonschema": {"router", "engines"},
    "referencing": {"router", "engines"},
    "pyarrow": set(PACKAGES),
    "numpy": set(PACKAGES),
}
"""Each foreign library has one home; the common tongue has four."""

STANDS_FOR: Mapping[str, str] = {
    "flows/jobs/sql": "flows/test_job",
    "flows/orchestration/schedules": "nights/test_schedules",
    "flows/orchestration/slot_holders": "flows/test_concurrency",
    "flows/orchestration/server": "nights/test_without_server",
    "router/embeddings": "flows/test_embeddings",
    "warehouse/object_stores": "nights/test_object_stores",
    "engines/batch": "engines/batch/test_openai",
    "engines/core": "engines/test_realtime",
    "engines/core/rate_limits": "engines/test_rate_limits",
    "engines/core/transport": "engines/test_rate_limits",
    "engines/devices": "engines/test_devices",
    "engines/emulator": "engines/emulator/test_realtime",
    "engines/emulator/anthropic_wire": "engines/batch/test_anthropic",
    "engines/emulator/answer_key": "engines/emulator/test_stand_ins",
    "engines/emulator/billing": "engines/emulator/test_batches",
    "engines/emulator/generation": "engines/emulator/test_records",
    "engines/emulator/judging": "nights/test_judged",
    "engines/emulator/models": "engines/emulator/test_troubles",
    "engines/emulator/openai_batches": "engines/emulator/test_batches",
    "engines/emulator/recorded_outcomes": "engines/emulator/test_records",
    "engines/direct": "engines/test_redirects",
    "engines/errors": "engines/test_registry",
    "engines/metered": "engines/vllm/test_metered",
    "engines/pricemap": "router/test_pricebook",
    "engines/realtime": "engines/test_realtime",
    "engines/server": "engines/test_server",
    "engines/tokenizers": "router/test_tokens",
    "engines/vllm": "engines/vllm/test_engine",
    "engines/vllm/preflight": "engines/vllm/test_metered",
    "engines/vllm/process": "engines/vllm/test_metered",
    "engines/ray": "engines/test_ray",
    "engines/wires": "engines/test_realtime",
    "engines/wires/anthropic": "engines/batch/test_anthropic",
    "engines/wires/rate_limit_headers": "engines/test_rate_limits",
    "flows/api": "flows/test_cli",
    "flows/cli": "flows/test_cli",
    "flows/cli/backtest": "router/test_backtest",
    "flows/cli/demo": "flows/test_run_ids",
    "flows/cli/demo/vllm": "nights/test_demo_vllm",
    "flows/cli/labels": "warehouse/test_labels",
    "flows/cli/plan": "flows/test_plan_command",
    "flows/cli/run": "nights/test_night",
    "flows/cli/serve": "nights/test_serving",
    "flows/dispatch": "nights/test_night",
    "flows/errors": "flows/test_cli",
    "flows/execution": "nights/test_night",
    "flows/execution/earlier_runs": "nights/test_earlier_runs",
    "flows/execution/webhook": "flows/test_notices",
    "flows/formats": "flows/test_cli",
    "flows/init": "flows/test_init",
    "flows/jobs": "flows/test_job",
    "flows/jobs/redaction": "nights/test_secrets",
    "flows/jobs/reference": "nights/test_docs",
    "flows/models": "flows/test_models",
    "flows/night": "nights/test_night",
    "flows/orchestration": "nights/test_serving",
    "flows/planning": "flows/test_input",
    "flows/planning/measured": "flows/test_planner",
    "flows/quality": "flows/test_audit",
    "flows/quality/human_labels": "warehouse/test_labels",
    "flows/quality/publishing": "warehouse/test_publish",
    "flows/quality/repair": "nights/test_repair",
    "flows/report": "flows/test_report",
    "flows/runs": "nights/test_night",
    "flows/runs/ids": "flows/test_run_ids",
    "flows/telemetry": "nights/test_telemetry",
    "flows/verdicts": "flows/test_report",
    "router/backtesting": "router/test_backtest",
    "router/certification": "router/test_certificate",
    "router/harvest": "router/test_deadline_harvest",
    "router/interfaces": "engines/test_registry",
    "router/learning": "router/test_predict",
    "router/learning/repair": "nights/test_repair",
    "router/lots": "flows/test_lots",
    "router/patterns": "router/test_scorers",
    "router/planning": "router/test_planning_answers",
    "router/prediction": "router/test_predict",
    "router/pricing": "router/test_pricebook",
    "router/threads": "router/test_predict",
    "router/tokens": "router/test_tokens",
    "router/values": "router/test_prices",
    "warehouse/errors": "nights/test_full_disk",
    "warehouse/exchange": "warehouse/test_reconcile",
    "warehouse/intake": "warehouse/test_intake",
    "warehouse/journal": "warehouse/test_journal",
    "warehouse/journal/run_folder": "flows/test_run_ids",
    "warehouse/store": "warehouse/test_store",
    "warehouse/store/migrate": "warehouse/test_migrations",
    "warehouse/store/reuse": "nights/test_money_views",
    "warehouse/store/schema": "warehouse/test_migrations",
    "warehouse/store/views": "nights/test_money_views",
}
"""Which test file stands for a module that has none of its name. A folder stands for the files in it that have no line."""

LONGEST = 400
MOST_FILES = 20


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_what_its_part_may_know(path: Path) -> None:
    part = part_of(path)
    package = path.relative_to(ROOT).parts[0]
    if path.name == "__init__.py" and path.parent.name in PACKAGES:
        assert ours(path) == set()
        return
    allowed = [part, *TABLE[part], *FREE.get(package, ())]
    places = {str(NAMES[name].relative_to(ROOT).with_suffix("")) for name in ours(path)}
    assert {p for p in places if not any(p == a or p.startswith(f"{a}/") for a in allowed)} == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_foreign_library_is_imported_where_it_lives(path: Path) -> None:
    libraries = {name.partition(".")[0] for name in imported(path)} - set(sys.stdlib_module_names)
    here = {
        lib for lib, homes in HOMES.items() if any(name_of(path).startswith(f"{home}/") for home in homes)
    }
    assert libraries - {"thirdshift"} - here == set()


def test_prefect_lives_with_the_flow_what_orchestrates_and_serve() -> None:
    homes = {path for path in MODULES if any(name.partition(".")[0] == "prefect" for name in imported(path))}
    strangers = {
        name_of(path) for path in homes if part_of(path) not in ("flows/orchestration", "flows/night")
    }
    assert strangers <= {"flows/cli/serve.py", "flows/cli/doctor.py"}


def test_no_file_imports_another_in_a_circle() -> None:
    try:
        TopologicalSorter({name: ours(path) - {name} for name, path in NAMES.items()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_part_imports_another_in_a_circle() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for path in MODULES:
        graph[str(path.parent.relative_to(ROOT))] |= {
            str(NAMES[name].parent.relative_to(ROOT)) for name in ours(path)
        } - {str(path.parent.relative_to(ROOT))}
    packages = {name: {p for p in found if "/" in p and "/" in name} for name, found in graph.items()}
    try:
        TopologicalSorter(packages).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nothing_imports_our_packages_by_their_bare_names() -> None:
    programs = [*MODULES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    bare = {
        name_of(path) for path in programs if any(n.partition(".")[0] in PACKAGES for n in imported(path))
    }
    assert bare == set()


def test_a_class_name_means_one_thing() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name_of(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_a_folder_holds_no_more_files_than_a_reader_keeps_in_mind() -> None:
    counts: dict[str, int] = defaultdict(int)
    for path in MODULES:
        counts[str(path.parent.relative_to(ROOT))] += path.name != "__init__.py"
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_no_command_imports_another_commands_internals() -> None:
    """What `sql_prompt` shares with `sql` is its own, as is what lies in a command's folder. `completion` and `options` are
    for all."""
    below = "flows.cli."
    modules = {name.removeprefix(below): path for name, path in NAMES.items() if name.startswith(below)}
    del modules["app"]
    others = {
        (name, other)
        for name, path in modules.items()
        for other in {found.removeprefix(below) for found in ours(path) if found.startswith(below)}
        if command_of(other) not in (command_of(name), "completion", "options")
    }
    assert others == set()


def command_of(name: str) -> str:
    """The command that a module below flows/cli works for: its folder, or its name up to the first underscore."""
    return name.partition(".")[0].partition("_")[0]


def file_that_tests(path: Path) -> Path:
    """The test file of a module: the one of its name, else the one that stands for it or for its folder."""
    package, *folders, stem = path.relative_to(ROOT).with_suffix("").parts
    for place in ("/".join([package, *folders]), package):
        if (named := ROOT / "tests" / place / f"test_{stem}.py").exists():
            return named
    name = "/".join([package, *folders, stem])
    return ROOT / "tests" / f"{STANDS_FOR.get(name) or STANDS_FOR.get(name.rpartition('/')[0], 'none')}.py"


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__init__.py"], ids=name_of)
def test_a_module_has_a_test_file_of_its_name_or_one_that_stands_for_it(path: Path) -> None:
    assert file_that_tests(path).exists(), (
        f"{name_of(path)} has no test file, and no line in STANDS_FOR names one"
    )


def test_each_line_of_that_table_is_of_a_module_and_a_test_file_that_there_are() -> None:
    modules = {str(p.relative_to(ROOT).with_suffix("")).removesuffix("/__init__") for p in MODULES}
    assert STANDS_FOR.keys() - modules == set()
    assert {name for name in STANDS_FOR.values() if not (ROOT / "tests" / f"{name}.py").exists()} == set()


def test_no_test_file_imports_another() -> None:
    """Also in the programs that tests hand to an interpreter as text. What several need is in tests/support."""
    lines = re.compile(r"^\s*(?:from|import)\s+tests\.(?!support\b|formats\b)", re.MULTILINE)
    files = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    assert [name_of(path) for path in files if lines.search(path.read_text(encoding="utf-8"))] == []


def test_the_page_of_the_architecture_is_current() -> None:
    again = "run `python -m tests.support.architecture`"
    text = architecture.PAGE.read_text(encoding="utf-8")
    assert architecture.page(text) == text, again
    assert architecture.PICTURE.read_text(encoding="utf-8") == architecture.picture(), again


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.md")), ids=name_of)
def test_a_page_names_files_that_there_are(page: Path) -> None:
    """By their whole path or, where a page speaks of one package, by the file's name."""
    named = re.findall(r"`([\w/]+\.(?:py|toml))`", page.read_text(encoding="utf-8"))
    kept = (*ROOT.glob("router/**/*.toml"), *ROOT.glob("tests/support/**/*.py"))
    files = {path.name for path in (*MODULES, *kept)}
    assert [name for name in named if not (ROOT / name).exists() and name not in files] == []


def test_the_worker_imports_only_the_standard_library_and_vllm() -> None:
    worker = ROOT / "engines" / "vllm" / "worker.py"
    assert {n.partition(".")[0] for n in imported(worker)} - set(sys.stdlib_module_names) <= {"vllm"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_short_and_every_function_is_annotated(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST
    functions = (n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    assert [f"{f.name}, line {f.lineno}" for f in functions if not annotated(f)] == []


def annotated(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    named += [one for one in (arguments.vararg, arguments.kwarg) if one]
    return function.returns is not None and all(
        one.annotation is not None or one.arg in {"self", "cls"} for one in named
    )


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=name_of)
def test_a_package_opens_with_its_sentence(path: Path) -> None:
    sentence = ast.get_docstring(tree(path))
    assert sentence is not None
    assert sentence.endswith(".")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_docstring_opens_with_of(path: Path) -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    opening = [ast.get_docstring(n) or "" for n in ast.walk(tree(path)) if isinstance(n, documented)]
    opening += [
        n.value.value
        for n in ast.walk(tree(path))
        if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) and isinstance(n.value.value, str)
    ]
    assert [text for text in opening if text.startswith("Of ")] == []
