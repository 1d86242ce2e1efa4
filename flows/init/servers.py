"""Servers that a new job could use: what a URL's /v1/models lists, and what answers on the usual ports of this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request

from thirdshift.engines.direct import opener
from thirdshift.flows.errors import UserError

USUAL_PORTS = {
    8000: "vLLM",
    8080: "llama.cpp",
    11434: "Ollama",
    1234: "LM Studio",
    30000: "SGLang",
    4000: "litellm",
}
"""Port → which server is usually there."""
ASKED_SECONDS = 5.0
TRIED_SECONDS = 0.5
"""A port of this machine answers at once or not at all."""
MOST_BYTES = 1 << 20
KEY_WANTED = (400, 401, 403, 500)
"""What is answered where a key is missing or wrong; litellm's proxy without a database says 500 and 400."""
MOST_MODELS = 8
WINDOWS = ("max_model_len", "context_length", "context_window")
"""Where servers tell a model's context window: vLLM and SGLang, OpenRouter's like, others."""
LLAMA_CPP_WINDOWS = ("n_ctx", "n_ctx_train")
"""Where llama.cpp's server does, under `meta`: a slot's share of what it was started with; the model's own."""


class NoModels(ValueError):
    """Nothing there lists models."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server lists."""

    api_base: str
    model: str
    """The name on the wire."""
    name: str
    """For the job's endpoint."""
    context_window: int | None
    api_key_env: str | None = None
    """The variable that holds the server's key."""


def served_at(url: str, key: str | None = None, seconds: float = ASKED_SECONDS) -> list[ServedModel]:
    """Return what the server lists under /v1/models. Raises NoModels; UserError where `url` is none of a server."""
    base = _base(url)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    try:
        with opener().open(Request(f"{base}/models", headers=headers), timeout=seconds) as reply:  # noqa: S310 (http: _base)
            listed = json.loads(reply.read(MOST_BYTES))
    except HTTPError as error:
        error.close()
        refused = (
            "; it does not take the key"
            if key
            else "; if it wants a key, name its variable: --api-key-env NAME"
        )
        wanted = refused if error.code in KEY_WANTED else ""
        raise NoModels(f"{base}/models answered {error.code}{wanted}") from error
    except (OSError, ValueError) as error:
        raise NoModels(f"{base}/models lists no models: {getattr(error, 'reason', error)}") from error
    data = listed.get("data") if isinstance(listed, dict) else None
    models = [_model(base, entry) for entry in data if _is_model(entry)] if isinstance(data, list) else []
    if not models:
        raise NoModels(f"{base}/models lists no models")
    return models[:MOST_MODELS]


def usual_servers(ports: Iterable[int] = tuple(USUAL_PORTS)) -> Iterator[ServedModel]:
    """Yield what answers on the usual ports of this machine."""
    for port in ports:
        try:
            yield from served_at(f"http://127.0.0.1:{port}/v1", seconds=TRIED_SECONDS)
        except NoModels:
            continue


def _base(url: str) -> str:
    """Return the address that `api_base` takes: with /v1 where only a host is named."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise UserError(f"--endpoint {url!r}: write a server's address, like http://127.0.0.1:8000/v1")
    path = parts.path.rstrip("/").removesuffix("/models")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _is_model(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), str) and bool(entry["id"].strip())


def _model(base: str, entry: dict[str, Any]) -> ServedModel:
    meta = entry.get("meta")
    told = [entry.get(key) for key in WINDOWS]
    told += [meta.get(key) for key in LLAMA_CPP_WINDOWS] if isinstance(meta, dict) else []
    window = next((value for value in told if isinstance(value, int) and value > 0), None)
    short = re.sub(r"[^a-z0-9.-]+", "-", entry["id"].rstrip("/").rpartition("/")[2].lower()).strip("-.")
    return ServedModel(base, entry["id"], short[:60] or "server", window)
