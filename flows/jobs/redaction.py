"""Remove what is never shown or kept: keys, passwords, tokens."""

from __future__ import annotations

import re

from thirdshift.router.values import JSON

HIDDEN = "***"


SECRET = re.compile(
    r"api[-_]?key$|authorization|secret|passw|(access|auth|bearer)[-_]?token|^token$|cookie|credential",
    re.IGNORECASE,
)
"""Names under which people keep what nobody else may read."""


_PASSWORD = re.compile(r"(://)[^/@\s]+@")


def hidden(value: JSON) -> JSON:
    """Return `value` without what stands under a name that SECRET matches."""
    if isinstance(value, dict):
        return {key: HIDDEN if SECRET.search(key) else hidden(item) for key, item in value.items()}
    return [hidden(item) for item in value] if isinstance(value, list) else value


def without_passwords(value: JSON) -> JSON:
    """Return `value` with user and password removed from every URL in it."""
    if isinstance(value, dict):
        return {key: without_passwords(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_passwords(item) for item in value]
    return _PASSWORD.sub(rf"\1{HIDDEN}@", value) if isinstance(value, str) else value
