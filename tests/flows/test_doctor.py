"""`doctor`: what it says of the machine's devices and of what their vLLM needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from thirdshift.engines.devices import machine
from thirdshift.flows.cli.doctor import show_health

NPU = """
| 4     910B3               | OK            | 93.6        45                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3400 / 65536         |
| 5     910B3               | Alarm         | 91.0        44                0    / 0             |
| 0                         | 0000:C2:00.0  | 0           0    / 0          3390 / 65536         |
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose npu-smi shows two chips, and whose nvidia-smi finds no driver."""
    printed = {
        "npu-smi": f"cat <<'END'\n{NPU}\nEND",
        "nvidia-smi": "echo 'the driver is not running'; exit 9",
    }
    for name, shell in printed.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{shell}\n")
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("CUDA_VISIBLE_DEVICES", "RAY_ADDRESS", "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        monkeypatch.delenv(name, raising=False)
    machine.cache_clear()
    yield
    machine.cache_clear()


def findings(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, tuple[str, str]]]:
    code = show_health(None, as_json=True)
    told = json.loads(capsys.readouterr().out)["findings"]
    return code, {one["what"]: (one["state"], one["told"]) for one in told}


@pytest.mark.usefixtures("tools")
def test_doctor_tells_of_npus_cann_and_the_words_of_a_tool_that_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    code, told = findings(capsys)
    assert code == 0
    assert told["ascend npus"] == ("ok", "0: Ascend 910B3, 64 GiB, 1: Ascend 910B3, 64 GiB, not OK: left out")
    assert told["nvidia gpus"] == (
        "missing",
        "none found by nvidia-smi, which says: the driver is not running",
    )
    assert told["cann"] == ("missing", "ASCEND_HOME_PATH is not set; source CANN's set_env.sh")
    monkeypatch.setenv("ASCEND_HOME_PATH", "/usr/local/Ascend/latest")
    assert findings(capsys)[1]["cann"] == ("ok", "ASCEND_HOME_PATH=/usr/local/Ascend/latest")


@pytest.mark.usefixtures("tools")
def test_doctor_finds_a_variable_wrong_that_the_runtime_does_not_read_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0-1")
    code, told = findings(capsys)
    assert code == 2
    assert told["ascend npus"] == ("ok", "0: Ascend 910B3, 64 GiB")
    state, words = told["ASCEND_RT_VISIBLE_DEVICES"]
    assert state == "wrong"
    assert "CANN reads 0:" in words


def test_doctor_cuts_no_word_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A remedy may be one long word: PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency…"""
    monkeypatch.setenv("COLUMNS", "60")
    show_health(tmp_path / f"{'long' * 40}.duckdb", as_json=False)
    assert "long" * 40 in re.sub(r"[│\s]", "", capsys.readouterr().out)
