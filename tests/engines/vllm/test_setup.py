"""What `make` would install for a device, without installing it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.support.paths import ROOT


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("index", ["", "https://wheels.example/cu129"])
def test_flashinfers_kernels_are_fetched_when_vllm_is_installed(index: str) -> None:
    """Of FlashInfer's own version; those that must be compiled only where their index is named."""
    printed = subprocess.run(
        ("make", "-n", "vllm-cuda", f"FLASHINFER_INDEX={index}"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert "'vllm==0.32.*'" in printed[0]
    assert '"flashinfer-cubin==$(.venv-vllm/bin/python -c "$FLASHINFER_VERSION")"' in printed[1]
    assert f'test -z "{index}"' in printed[2]
    assert f"--index-url {index}" in printed[2]
