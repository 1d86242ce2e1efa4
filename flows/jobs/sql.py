"""Params in a query are values, never SQL: `${ds}` on its own is bound as `$ds`; within quotes it stays within them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
QUOTES = ("'", '"')
ESCAPED = re.compile(r"(?<![A-Za-z0-9_])[eE]'")
DOLLARS = re.compile(r"\$([A-Za-z_]*)\$")


def bound(pieces: Sequence[str], value: Callable[[bool, str], str]) -> tuple[str, list[str]]:
    """The query with its params bound, and what is wrong with it.

    `pieces`: text, then for each use its escape, its name and the text behind it. `value`: what a use stands for as text.
    """
    text, problems = pieces[0], []
    made = [text]
    state = _after(text, "")
    for escape, name, behind in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        filled = value(bool(escape), name)
        if escape or state in ("--", "/*"):
            made.append(filled if escape else "")
        elif state in QUOTES and ".." in filled.split("/"):
            problems.append(
                f"${{{name}}} leads up a folder ({filled!r}) within quotes; write it outside, where it is bound"
            )
        elif state in QUOTES:
            made.append(filled.replace(state, state * 2))
        elif state:
            problems.append(f"${{{name}}} cannot stand within {state}…; write it outside, where it is bound")
        elif NAME.fullmatch(name) is None:
            problems.append(f"a param in SQL is named with letters, digits and _; {name!r} is not")
        else:
            made.append(f"${name}")
        made.append(behind)
        state = _after(behind, state)
    return "".join(made), problems


def _after(text: str, state: str) -> str:
    """What is open at the end of a text that begins within `state`: a quote, a comment, or nothing."""
    at, depth = 0, 1 if state == "/*" else 0
    while at < len(text):
        if state == "/*":  # they nest
            if text.startswith("/*", at):
                depth, at = depth + 1, at + 2
            elif text.startswith("*/", at):
                depth, at = depth - 1, at + 2
                state = state if depth else ""
            else:
                at += 1
        elif state:
            at, state = _within(text, at, state)
        else:
            at, state = _opened(text, at)
            depth = 1
    return state


def _within(text: str, at: int, state: str) -> tuple[int, str]:
    """One step within quotes or a line's comment."""
    closing = {"--": "\n", "E'": "'"}.get(state, state)
    if state == "E'" and text[at] == "\\":
        return at + 2, state
    if not text.startswith(closing, at):
        return at + 1, state
    if closing in QUOTES and text.startswith(closing * 2, at):
        return at + 2, state
    return at + len(closing), ""


def _opened(text: str, at: int) -> tuple[int, str]:
    """One step outside: what opens here, if anything does."""
    for opening in ("--", "/*", *QUOTES):
        if text.startswith(opening, at):
            return at + len(opening), opening
    if match := ESCAPED.match(text, at):
        return match.end(), "E'"
    if match := DOLLARS.match(text, at):
        return match.end(), match[0]
    return at + 1, ""


def typed(given: str, default: object) -> object:
    """A param's value for a query: of the type that its default has in the job file, else text."""
    if isinstance(default, bool):
        return given.lower() == "true"
    try:
        return type(default)(given) if isinstance(default, int | float) else given
    except ValueError:
        return given
