"""litellm's bundled price map, read from its wheel without importing litellm (4 seconds and 200 MB)."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import cast

import orjson

from thirdshift.router.pricing.pricebook import PriceMap

MAP_NAME = "model_prices_and_context_window_backup.json"


def litellm_folder() -> Path:
    """Where litellm is installed. Raises FileNotFoundError with the command that mends it."""
    spec = importlib.util.find_spec("litellm")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("litellm is not installed, and with it the price map; run: make setup")
    return Path(spec.origin).parent


@lru_cache(maxsize=1)
def bundled_map() -> tuple[PriceMap, str]:
    """The parsed map and the litellm version it came with. Do not change what is returned: it is shared."""
    path = litellm_folder() / MAP_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: this litellm carries no price map; run: make setup")
    return cast("PriceMap", orjson.loads(path.read_bytes())), importlib.metadata.version("litellm")
