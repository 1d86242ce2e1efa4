"""Parse a job file's text: YAML with every value's line, and `${name}` filled in where it stands.

YAML as of 1.2 for plain values: `no` is text (and a country), 06:00 is no number, a date is text. Only `true`
and `false` are booleans. `${name}` has the type of its value where it is written plainly, and is text within
quotes; `$${name}` is a literal `${name}`. In `input: {sql: …}` a param is bound, not written in: `flows.jobs.sql`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from thirdshift.flows.errors import JobError, Mistake, nearest
from thirdshift.flows.jobs.sql import bound

Loc = tuple[str | int, ...]
_USE = re.compile(r"\$(\$?)\{([^{}\n]*)\}")
_HELD = re.compile("\ue000(\\$?)([^\ue001]*)\ue001")
"""A use while YAML reads the file, to which braces mean something else."""
_TAG = "tag:yaml.org,2002:"
SQL: Loc = ("input", "sql")
MOST_VALUES = 100_000
"""In a job file once its aliases are followed; aliases of aliases grow tenfold with every level."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 (as the base class has it; ours are added below)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(f"(?:{_pattern})$"), _first)


@dataclass(frozen=True, slots=True)
class Document:
    """A job file as read."""

    path: Path
    data: dict[str, Any] = field(repr=False)
    lines: Mapping[Loc, int] = field(repr=False)
    params: Mapping[str, str] = field(default_factory=dict)
    """Every param's value: given, or else the file's default."""
    mistakes: tuple[Mistake, ...] = ()

    def line(self, loc: Loc) -> int:
        """Return the line of the value at `loc`, or of what it would be in."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc, 1)

    def mistake(self, loc: Loc, what: str) -> Mistake:
        """Return a mistake at `loc`, with its line."""
        return Mistake(self.line(loc), place(loc), what)


def place(loc: Loc) -> str:
    """Return a place as people write it: `endpoints[1].price` for `("endpoints", 1, "price")`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc]
    return "".join(parts).removeprefix(".")


def read(path: Path, params: Mapping[str, str]) -> Document:
    """The file with its params filled in. Raises JobError where it is no YAML mapping at all."""
    if path.exists() and not path.is_file():
        raise JobError(path, [Mistake(0, "", "is no file; a job is read more than once, so no pipe will do")])
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        why = f"cannot be read ({error.strerror})" if path.exists() else "no such file"
        raise JobError(path, [Mistake(0, "", why)]) from None
    except UnicodeDecodeError as error:
        raise JobError(path, [Mistake(0, "", f"is not UTF-8 (byte {error.start})")]) from None
    try:
        return _document(path, text, params)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"no valid YAML: {error.problem or error.context}"
        raise JobError(path, [Mistake(mark.line + 1 if mark else 0, "", what)]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = str(error).splitlines()[0] if not isinstance(error, RecursionError) else "nested without end"
        raise JobError(path, [Mistake(0, "", f"no valid YAML: {what}")]) from None


def _document(path: Path, text: str, params: Mapping[str, str]) -> Document:
    loader = _Loader(_USE.sub("\ue000\\1\\2\ue001", text))
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise JobError(
                path,
                [Mistake(1, "", "is no mapping; a job is keys and values, like `input: tickets.parquet`")],
            )
        walk = _Walk(loader, _defaults(root), params)
        walk.visit(root, ())
        data = loader.construct_document(root)
    finally:
        loader.dispose()
    values = {name: value for name, value in walk.params.items() if value is not None}
    return Document(path, data, walk.lines, values, tuple(walk.mistakes + walk.param_mistakes()))


def _defaults(root: yaml.MappingNode) -> dict[str, str | None]:
    """Return what `params:` declares, with defaults as text; None: no default."""
    for key, value in root.value:
        if key.value == "params" and isinstance(value, yaml.MappingNode):
            return {name.value: _default(node) for name, node in value.value}
    return {}


def _default(node: yaml.Node) -> str | None:
    if not isinstance(node, yaml.ScalarNode):
        return ""  # refused later, for what it is
    return None if node.tag == _TAG + "null" else _as_written(node.value)


def _as_written(text: str) -> str:
    return _HELD.sub(r"$\1{\2}", text)


class _Walk:
    """One pass over the nodes: lines, keys given twice, params."""

    def __init__(
        self, loader: _Loader, defaults: Mapping[str, str | None], stated: Mapping[str, str]
    ) -> None:
        self.loader = loader
        self.declared = tuple(defaults)
        self.given = stated
        self.params: dict[str, str | None] = {
            **defaults,
            **{k: v for k, v in stated.items() if k in defaults},
        }
        self.lines: dict[Loc, int] = {}
        self.mistakes: list[Mistake] = []
        self._done: set[int] = set()
        self._open: set[int] = set()
        self._values = 0

    def visit(self, node: yaml.Node, loc: Loc) -> None:
        self.lines.setdefault(loc, node.start_mark.line + 1)
        self._values += 1
        if self._values > MOST_VALUES:
            raise ValueError(
                f"its aliases stand for more than {MOST_VALUES:,} values; write out what is meant"
            )
        if id(node) in self._open:
            raise ValueError(f"{place(loc)} contains itself")
        self._open.add(id(node))
        for step, child in self._children(node, loc):
            self.visit(child, (*loc, step))
        if isinstance(node, yaml.ScalarNode) and id(node) not in self._done and loc[:1] != ("params",):
            self._done.add(id(node))  # an alias is the same node again
            self._fill(node, loc)
        self._open.discard(id(node))

    def _children(self, node: yaml.Node, loc: Loc) -> Iterator[tuple[str | int, yaml.Node]]:
        if isinstance(node, yaml.SequenceNode):
            yield from enumerate(node.value)
        if not isinstance(node, yaml.MappingNode):
            return
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is text", problem_mark=key.start_mark)
            key.value = self._named(key, loc)
            if key.tag != _TAG + "merge":
                key.tag = _TAG + "str"  # 404: is a name like any other
            step = (*loc, key.value)
            if key.value in seen:
                self.mistakes.append(Mistake(key.start_mark.line + 1, place(step), "given twice; keep one"))
            seen.add(key.value)
            self.lines.setdefault(step, key.start_mark.line + 1)
            yield key.value, value

    def _named(self, key: yaml.ScalarNode, loc: Loc) -> str:
        """A key's name, params filled in but under `params` itself."""
        written = _as_written(key.value)
        if loc[:1] == ("params",):
            return written
        self.lines.setdefault((*loc, written), key.start_mark.line + 1)
        return _HELD.sub(lambda use: self._of((*loc, written), bool(use[1]), use[2]), key.value)

    def _fill(self, node: yaml.ScalarNode, loc: Loc) -> None:
        if _HELD.search(node.value) is None:
            return
        if loc == SQL:
            node.value, problems = bound(_HELD.split(node.value), partial(self._of, loc))
            self.mistakes += [Mistake(self.lines[loc], place(loc), problem) for problem in problems]
            return
        node.value = _HELD.sub(lambda use: self._of(loc, bool(use[1]), use[2]), node.value)
        if node.style is None:
            node.tag = self.loader.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]

    def _of(self, loc: Loc, escaped: bool, name: str) -> str:
        """What a use stands for."""
        if escaped:
            return f"${{{name}}}"
        if name not in self.params:
            what = f"no param called {name}; {self._known()}{nearest(name, self.declared)}"
            self.mistakes.append(Mistake(self.lines[loc], place(loc), what))
        return self.params.get(name) or ""

    def _known(self) -> str:
        return f"params are {', '.join(self.declared)}" if self.declared else "the job has none under params"

    def param_mistakes(self) -> list[Mistake]:
        missing = [
            Mistake(self.lines[("params", name)], f"params.{name}", f"no value; give it: --param {name}=…")
            for name, value in self.params.items()
            if value is None
        ]
        unknown = [
            Mistake(0, f"--param {name}", f"no such param; {self._known()}{nearest(name, self.declared)}")
            for name in self.given
            if name not in self.declared
        ]
        return missing + unknown
