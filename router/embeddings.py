"""Embeddings are not what this is for: the sentence that says so, and where they are recognised."""

from __future__ import annotations

from urllib.parse import urlsplit

from thirdshift.router.pricing.pricebook import PriceMap, resolve

NO_EMBEDDINGS = (
    "embeddings are not what this is for: it asks models for answers in text, plans by their quality and prices their "
    "tokens; send embeddings to their provider, or to a server of your own, directly"
)


def asks_for_embeddings(address: object) -> bool:
    """Whether an address, or the path in a line of a batch file, is one of embeddings."""
    return isinstance(address, str) and urlsplit(address).path.rstrip("/").endswith("/embeddings")


def is_embedding_model(model: str, prices: PriceMap) -> bool:
    """Whether the price map knows a model as one of embeddings."""
    key = resolve(model, prices)
    return key is not None and prices[key].get("mode") == "embedding"
