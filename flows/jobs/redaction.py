"""What is never shown or kept: keys, passwords, tokens."""

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
    """`value` without what stands under a name of SECRET."""
    if isinstance(value, dict):
        return {key: HIDDEN if SECRET.search(key) else hidden(one) for key, one in value.items()}
    return [hidden(one) for one in value] if isinstance(value, list) else value


def without_passwords(value: JSON) -> JSON:
    """`value` with user and password gone from every URL in it."""
    if isinstance(value, dict):
        return {key: without_passwords(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_passwords(one) for one in value]
    return _PASSWORD.sub(rf"\1{HIDDEN}@", value) if isinstance(value, str) else value
