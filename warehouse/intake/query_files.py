"""Which files a query with params may read: those that the job's text names, and below folders that it names.

A param comes from whoever starts the run: a form, a scheduler. In a query it is a value, and so could name any file that
the process can read, where the query hands it to `read_csv` or the like.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

from thirdshift.warehouse.errors import InputError

WITHOUT_FILES = frozenset({"range", "generate_series", "unnest", "repeat", "repeat_row"})
"""Table functions that read no file, whatever they are given."""
JOINED = frozenset({"||", "concat"})
LISTS = frozenset({"list_value", "list_pack", "array_value"})
REMEDY = "name it in the job ('data/' || $ds || '.csv'), so that the param only fills in what lies below that folder"


def check_named(con: duckdb.DuckDBPyConnection, relation: str, bound: Mapping[str, Any]) -> None:
    """Raise InputError where a param of the query decides which folder is read from, or which query is run."""
    if not any(isinstance(value, str) for value in bound.values()):
        return
    for function in _table_functions(con, relation):
        name = function["function_name"].lower()
        if name not in WITHOUT_FILES:
            for argument in function["children"]:
                _check(name, argument, bound)


def _table_functions(con: duckdb.DuckDBPyConnection, relation: str) -> Iterator[dict[str, Any]]:
    told = con.execute(
        "select json_serialize_sql($sql::varchar)", {"sql": f"select * from {relation}"}
    ).fetchall()
    tree = json.loads(told[0][0])
    if tree.get("error"):
        raise InputError(
            "input sql: a query with params must be one select, without pivot: bind them in a query of its own within it"
        )
    return (node["function"] for node in _nodes(tree) if node.get("type") == "TABLE_FUNCTION")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects of a tree of JSON."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _check(function: str, argument: dict[str, Any], bound: Mapping[str, Any]) -> None:
    """Check one argument; what has a name (`delim = $d`) names no file."""
    params = [node["identifier"] for node in _nodes(argument) if node.get("type") == "VALUE_PARAMETER"]
    texts = [(param, bound[param]) for param in params if isinstance(bound.get(param), str)]
    if not texts or argument["class"] == "COMPARISON":
        return
    if argument["class"] == "FUNCTION" and argument["function_name"] in LISTS:
        for part in argument["children"]:
            _check(function, part, bound)
        return
    param = texts[0][0]
    if "/" not in _beginning(argument):
        raise InputError(f"input sql: ${param} decides which file {function} reads; {REMEDY}")
    for name, text in texts:
        if ".." in text.split("/"):
            raise InputError(f"input sql: ${name} leads out of the folder that {function} is given; {REMEDY}")


def _beginning(expression: dict[str, Any]) -> str:
    """Return the constant text that an expression begins with; empty where it begins with anything else."""
    while True:
        if expression["class"] == "CAST":
            expression = expression["child"]
        elif expression["class"] == "FUNCTION" and expression["function_name"] in JOINED:
            expression = expression["children"][0]
        else:
            break
    if expression["class"] != "CONSTANT":
        return ""
    value = expression["value"].get("value")
    return value if isinstance(value, str) else ""
