"""Options of `models`, `models show` and `models prices`; flows/models does the work."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thirdshift.flows.cli.options import JsonOption
from thirdshift.flows.errors import UserError

if TYPE_CHECKING:
    from thirdshift.flows.models.listing import ModelFilter

models = typer.Typer(
    help="List models, with licence, lab, price and prior; show one; keep the price map new.",
    pretty_exceptions_enable=False,
)


class Weights(StrEnum):
    """Whether a model's weights are published."""

    OPEN = "open"
    CLOSED = "closed"


@models.callback(
    invoke_without_command=True,
    epilog="Example: thirdshift models --licence mit --max-output 5",
)
def listed(
    context: typer.Context,
    licence: Annotated[
        str | None, typer.Option(metavar="SPDX", help="Like mit, apache-2.0.", show_default=False)
    ] = None,
    lab: Annotated[
        str | None, typer.Option(metavar="NAME", help="Like DeepSeek.", show_default=False)
    ] = None,
    origin: Annotated[
        str | None, typer.Option(metavar="FR", help="The lab's country.", show_default=False)
    ] = None,
    weights: Annotated[Weights | None, typer.Option(show_default=False)] = None,
    max_input: Annotated[
        float | None,
        typer.Option(metavar="USD", min=0, help="Per million input tokens.", show_default=False),
    ] = None,
    max_output: Annotated[
        float | None,
        typer.Option(metavar="USD", min=0, help="Per million output tokens.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the catalogue's models, each with its cheapest offer in real time. What is unknown fits no filter."""
    options = [licence, lab, origin, weights, max_input, max_output]
    if context.invoked_subcommand is not None:
        if as_json or any(option is not None for option in options):
            raise UserError(
                f"options of the list do not go with `models {context.invoked_subcommand}`; put its own after it"
            )
        return
    from thirdshift.flows.models.listing import ModelFilter

    criteria = ModelFilter(licence, lab, origin, weights.value if weights else None, max_input, max_output)
    raise typer.Exit(show_models(criteria, as_json=as_json))


@models.command(epilog="Example: thirdshift models show deepseek/deepseek-v4-flash")
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As in the list, or litellm's.", show_default=False)
    ],
    as_json: JsonOption = False,
) -> None:
    """Show all that is known of one model: facts with their sources, litellm's names for it, prices in each mode."""
    raise typer.Exit(show_model(name, as_json=as_json))


@models.command(epilog="Example: thirdshift models tiers")
def tiers(as_json: JsonOption = False) -> None:
    """List providers' batch tiers: windows and discounts, what one batch may hold, what expiry leaves."""
    from thirdshift.engines.registry import tier_rows
    from thirdshift.flows.models.tiers import summary, tier_json

    rows = tier_rows().tiers
    if as_json:
        print(json.dumps({"tiers": [tier_json(tier) for tier in rows]}))
        raise typer.Exit
    from thirdshift.flows.cli.models_tables import print_tiers

    print_tiers([summary(tier) for tier in rows])


@models.command(epilog="Example: thirdshift models prices --update model_prices_and_context_window.json")
def prices(
    update: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Use this newer price map of litellm's.", show_default=False),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Back to the map that litellm carries.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say which price map is in use, or change it."""
    from thirdshift.flows.models.updates import reset_prices, show_prices, update_prices

    if update is not None and reset:
        raise UserError("--update and --reset exclude each other; give one")
    if update is not None:
        raise typer.Exit(update_prices(update, as_json=as_json))
    raise typer.Exit(reset_prices(as_json=as_json) if reset else show_prices(as_json=as_json))


def show_models(criteria: ModelFilter, *, as_json: bool) -> int:
    """Print the list of models; return 0."""
    from thirdshift.flows.cli.models_tables import print_choices, print_listing
    from thirdshift.flows.models.listing import listed_json, listing
    from thirdshift.flows.models.registry import load_registry

    known = load_registry()
    rows = listing(known, criteria)
    if as_json:
        print(json.dumps({"models": [listed_json(known, row) for row in rows]}))
    elif rows:
        print_listing(known, rows)
    if not rows:
        print_choices(known)
    return 0


def show_model(name: str, *, as_json: bool) -> int:
    """Print all that is known of one model; return 0. Raises UserError with the nearest names."""
    from thirdshift.flows.models.listing import find_model, names_of, offers_of, shown_json
    from thirdshift.flows.models.registry import load_registry

    known = load_registry()
    model = find_model(known, name)
    offers = offers_of(known, [name] if model is None else names_of(known, model))
    if as_json:
        print(json.dumps(shown_json(known, name, model, offers)))
    else:
        from thirdshift.flows.cli.models_tables import print_model

        print_model(known, name, model, offers)
    return 0
