"""Commands that the contract names and nobody has built: they say so. Delete a line when one works."""

from __future__ import annotations

from collections.abc import Callable

import typer

from flows.errors import UserError

UNBUILT = {
}
"""Command to what it will be for."""


class NotYet(UserError):
    """Named by the contract, not built yet."""


def refuse(app: typer.Typer) -> None:
    """Have `app` answer to these names, outside its help."""
    for name, purpose in UNBUILT.items():
        app.command(name, hidden=True, context_settings={"ignore_unknown_options": True})(
            _refusal(name, purpose)
        )


def _refusal(name: str, purpose: str) -> Callable[[list[str] | None], None]:
    def refusal(words: list[str] | None = typer.Argument(None)) -> None:  # noqa: ARG001, B008 (typer's way)
        raise NotYet(f"thirdshift {name} ({purpose}) does not work yet")

    return refusal
