"""Embeddings are refused with one sentence, exit 2, wherever one can ask for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.nights import thirdshift
from tests.support.plans import plan
from thirdshift.flows.errors import UserError
from thirdshift.router.embeddings import NO_EMBEDDINGS
from thirdshift.warehouse.errors import WarehouseError

PRICE = {"price": {"input": 1, "output": 4}}
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "x"}}


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "openai/text-embedding-3-small", "mode": "batch"},
        {"model": "openai/text-embedding-3-small"},
        {"api_base": "http://127.0.0.1:9/v1/embeddings"},
    ],
)
def test_an_endpoint_of_embeddings_is_refused(tmp_path: Path, asked: dict[str, str]) -> None:
    with pytest.raises(UserError) as refused:
        plan(tmp_path, {"e": PRICE | asked})
    assert NO_EMBEDDINGS in str(refused.value)
    assert refused.value.exit_code == 2


def batch_file(folder: Path) -> Path:
    path = folder / "batch.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | {"custom_id": "b"}) + "\n")
    return path


def test_a_batch_file_of_embeddings_is_refused(tmp_path: Path) -> None:
    batch_file(tmp_path)
    with pytest.raises((UserError, WarehouseError), match="embeddings are not what this is for"):
        plan(tmp_path, {"e": PRICE}, input="batch.jsonl")


def test_init_refuses_a_batch_file_of_embeddings(tmp_path: Path) -> None:
    done = thirdshift("init", batch_file(tmp_path), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "embeddings are not what this is for" in " ".join(done.stderr.split())
