"""Servers of other projects on loopback, as their users start them: llama.cpp's, litellm's proxy, vLLM's.

with running([program, …], port, "/health"):
    …    # http://127.0.0.1:{port} answers; it is stopped when the block ends
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_SECONDS

PROXY_KEY = "sk-made-up-for-loopback"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str | Path], port: int, health: str, environ: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A server, from when `health` answers 200 to the end of the block; its address."""
    process = subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, **(environ or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    last = time.monotonic() + PATIENCE_SECONDS
    try:
        while not _answers(f"{address}{health}"):
            assert process.poll() is None, f"{command[0]} ended before it answered"
            assert time.monotonic() < last
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def llama_cpp(folder: Path, model: Path, slots: int, context: int) -> Iterator[str]:
    """Run llama.cpp's server with a model in Hugging Face's format, `context` tokens for all of its slots together."""
    port = free_port()
    program = ROOT / "tests" / "support" / "llama_cpp.py"
    words = [sys.executable, program, model, folder / "model.gguf", *map(str, (port, slots, context))]
    with running(words, port, "/health") as address:
        yield address


@contextmanager
def litellm_proxy(folder: Path, deployments: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Run litellm's proxy behind a key. `deployments`: name to litellm's parameters of what stands behind it."""
    port = free_port()
    config = {
        "model_list": [
            {"model_name": name, "litellm_params": dict(parameters)}
            for name, parameters in deployments.items()
        ],
        "litellm_settings": {"num_retries": 0},
        "general_settings": {"master_key": PROXY_KEY},
    }
    (folder / "proxy.yaml").write_text(yaml.safe_dump(config))
    words = [
        sys.executable,
        "-m",
        "uvicorn",
        "litellm.proxy.proxy_server:app",
        "--host",
        "127.0.0.1",
        "--port",
        port,
    ]
    environ = {
        "CONFIG_FILE_PATH": str(folder / "proxy.yaml"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
    }
    with running(list(map(str, words)), port, "/health/liveliness", environ) as address:
        yield address
