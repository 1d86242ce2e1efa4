"""What an hour of rented workers costs at this moment, where a command of the job tells."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

from thirdshift.flows.errors import UserError
from thirdshift.router.values import Endpoint, usd

ASK_SECONDS = 60.0


def with_spot_price(endpoint: Endpoint, folder: Path) -> Endpoint:
    """Return the endpoint at the price that its command tells, if it has one. Raises UserError where it tells none."""
    command = None if endpoint.workers is None else endpoint.workers.spot_price
    if command is None:
        return endpoint
    try:
        done = subprocess.run(  # noqa: S602 - a command of the job's owner
            command,
            shell=True,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"endpoint {endpoint.name}: its spot_price command did not end in {ASK_SECONDS:.0f} s; see what it waits "
            "for, or leave it out"
        ) from None
    price = _price(done.stdout) if done.returncode == 0 else None
    if price is None:
        told = (done.stderr or done.stdout).strip().partition("\n")[0][:120]
        raise UserError(
            f"endpoint {endpoint.name}: its spot_price command is to print what an hour costs in USD, like 1.23, and ended "
            f"with status {done.returncode}: {told or 'nothing was printed'}"
        )
    return replace(endpoint, price=replace(endpoint.price, usd_per_hour=price))


def price_now(endpoint: Endpoint, folder: Path, say: Callable[[str], None]) -> Decimal | None:
    """Return what an hour of an endpoint's workers costs now; None where its command does not tell, which is said."""
    try:
        return with_spot_price(endpoint, folder).price.usd_per_hour
    except UserError as error:
        say(f"{error}; its price stays as it was")
        return None


def _price(printed: str) -> Decimal | None:
    """Return the number that is printed alone; None where it is none."""
    try:
        price = Decimal(printed.strip())
    except InvalidOperation:
        return None
    return usd(price) if price.is_finite() and price >= 0 else None
