"""Where a cluster's head is, and whether anybody listens there: Ray itself would try for a minute, and name no remedy."""

from __future__ import annotations

import socket
from collections.abc import Callable

KNOCK_SECONDS = 10.0
START_ONE = "`ray start --head` starts one here; or name a head under cluster: {address: head:6379}"
LISTENS = (
    "it listens, so it may want another token: every user of a cluster needs its head's, in ~/.ray/auth_token or in "
    "RAY_AUTH_TOKEN"
)


def knock(address: str) -> None:
    """See whether anybody listens at HOST:PORT; of other addresses nothing is known. Raises OSError."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def head_here(found: Callable[[], str]) -> str:
    """Return where this machine's Ray is. `found`: asks Ray, which raises ConnectionError where there is none.

    Raises ConnectionError: there is none, or what is left of one that was killed and not stopped.
    """
    try:
        address = found()
    except ConnectionError:
        raise ConnectionError(f"no Ray runs on this machine; {START_ONE}") from None
    try:
        knock(address)
    except OSError as error:
        raise ConnectionError(
            f"a Ray was at {address}, and nobody listens there any more ({error.strerror or error}); {START_ONE}"
        ) from None
    return address
