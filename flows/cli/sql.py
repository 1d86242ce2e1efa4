"""The `sql` command: a question to the warehouse, answered as a table or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from thirdshift.flows.errors import UserError
from thirdshift.flows.formats import as_table, jsonable
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.store.ask import ask


def show_sql(query: str, warehouse: Path, *, as_json: bool) -> int:
    """Print the answer; 0. Raises UserError where the query or the file is wrong."""
    try:
        answer = ask(warehouse, query)
    except WarehouseError as error:
        raise UserError(str(error)) from error
    if as_json:
        print(json.dumps({"columns": answer.column_names, "rows": answer.to_pylist()}, default=jsonable))
    else:
        Console(highlight=False).print(as_table(answer))
    return 0
