r"""The id of a request that several columns make, as SQL: joined, and taken apart again.

`2026-11-22/4711`. A row with a value that holds the separator has that, and backslashes, behind a backslash: `a\/b/c` is
of ("a/b", "c"), and `a/b\/c` of ("a", "b/c"). It holds more separators than any other row's id, so no two ids are one.
"""

from __future__ import annotations

from collections.abc import Sequence

from thirdshift.warehouse.intake.sources import quoted

SEPARATOR = "/"
TO_ESCAPE, ESCAPED = r"([/\\])", r"\\(.)"
ESCAPED_VALUE = r"((?:[^/\\]|\\.)*)"


def joined(values: Sequence[str]) -> str:
    """The id of the values of a row, which are SQL expressions; null where one of them is."""
    between = f" || {quoted(SEPARATOR)} || "
    plain = between.join(values)
    if len(values) == 1:
        return plain
    held = " or ".join(f"contains({value}, {quoted(SEPARATOR)})" for value in values)
    escaped = [rf"regexp_replace({value}, {quoted(TO_ESCAPE)}, '\\\1', 'g')" for value in values]
    return f"case when {held} then {between.join(escaped)} else {plain} end"


def value_of(joined_id: str, place: int, count: int) -> str:
    """The value at `place` (from 1) of the `count` that made an id. Null where that cannot be told, as of an id with more
    separators that an earlier version froze."""
    if count == 1:
        return joined_id
    parts = f"string_split({joined_id}, {quoted(SEPARATOR)})"
    form = quoted(f"(?s)^{SEPARATOR.join([ESCAPED_VALUE] * count)}$")
    value = f"regexp_replace(regexp_extract({joined_id}, {form}, {place}), {quoted(f'(?s){ESCAPED}')}, '\\1', 'g')"
    return (
        f"case when len({parts}) = {count} then {parts}[{place}] "
        f"when regexp_matches({joined_id}, {form}) then {value} end"
    )
