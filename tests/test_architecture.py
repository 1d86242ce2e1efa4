"""The table of packages, held: who imports whom, where foreign libraries live, how long a module may be."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {
    "router": set[str](),
    "engines": {"router"},
    "warehouse": {"router"},
    "flows": {"router", "engines", "warehouse"},
}
"""What each package knows of ours, besides itself."""

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
    "aiohttp": {"engines"},
    "orjson": {"engines", "warehouse"},
    "tokenizers": {"engines"},
    "tiktoken": {"engines"},
    "psutil": {"engines", "flows"},
    "stamina": {"engines", "warehouse"},
    "tenacity": {"warehouse"},
    "duckdb": {"warehouse"},
    "fsspec": {"warehouse"},
    "highspy": {"router"},
    "scipy": {"router"},
    "sklearn": {"router"},
    "threadpoolctl": {"router"},
    "regex": {"router", "engines"},  # the emulated provider must err as the scorers read
    "jsonschema": {"router", "engines", "warehouse"},  # one meaning of `valid` for input, replies and scores
    "referencing": {"router", "engines", "warehouse"},
    "pyarrow": set(OURS),
    "numpy": set(OURS),
}
"""Each foreign library has one home; the common tongue has four."""

LONGEST = 400
MODULES = [path for package in OURS for path in sorted((ROOT / package).rglob("*.py"))]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """The top-level names of what a module imports, wherever in it."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_what_its_package_may_know(path: Path) -> None:
    package = package_of(path)
    allowed = {package} | OURS[package] | {library for library, homes in HOMES.items() if package in homes}
    assert set(imported(path)) - set(sys.stdlib_module_names) - allowed == set()


def test_the_worker_imports_only_the_standard_library_and_vllm() -> None:
    worker = ROOT / "engines" / "vllm_worker.py"
    assert set(imported(worker)) - set(sys.stdlib_module_names) <= {"vllm"}


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


@pytest.mark.parametrize("package", OURS)
def test_a_package_opens_with_its_sentence(package: str) -> None:
    sentence = ast.get_docstring(tree(ROOT / package / "__init__.py"))
    assert sentence is not None
    assert sentence.endswith(".")
