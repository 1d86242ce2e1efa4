"""Read the files that a job names beside itself."""

from __future__ import annotations

import re
from pathlib import Path


def text_of(base: Path, name: str) -> str | None:
    """Return a file's text; None where there is no such file, or it is not UTF-8."""
    if "\n" in name or len(name) > 1000 or not name.strip():
        return None
    try:
        return (base / name).read_text(encoding="utf-8") if (base / name).is_file() else None
    except (OSError, ValueError):
        return None


def names_a_file(text: str) -> bool:
    """Return whether a text is one word that ends like a file's name."""
    return re.fullmatch(r"[^\s]+\.(md|txt|j2|jinja|prompt|json|ya?ml)", text) is not None
