"""Starts that fail and engines that die, as vLLM prints it: a stand-in prints the logs in `logs/`.

`cpu_memory.log` is vLLM 0.32's on the CPU (2026-11-29), its paths cut; the others are as its sources print them, with
PyTorch's words.
"""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import MemoryJournal
from tests.support.workers import ask, pool, stand_in_python, worker_endpoint
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.devices.setting import usual_seqs
from thirdshift.engines.vllm.engine import VllmEngine
from thirdshift.engines.vllm.engine_log import EngineFault, EngineLog, FaultKind
from thirdshift.engines.vllm.sizing import FITTED, Sizing
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.values import Answer, Failure, FailureKind, WorkerSpec

LOGS = Path(__file__).with_name("logs")
OUT = "torch.OutOfMemoryError: CUDA out of memory"


def read(name: str) -> EngineFault:
    log = EngineLog()
    for line in (LOGS / name).read_text().splitlines():
        log.add(line)
    fault = log.fault()
    assert fault is not None
    return fault


@pytest.mark.parametrize(
    ("name", "kind", "begins"),
    [
        ("cpu_memory.log", FaultKind.BUSY, "ValueError: Available memory on node 0 (14.97/19.71 GiB)"),
        ("cuda_start.log", FaultKind.OUT_OF_MEMORY, f"{OUT}. Tried to allocate 1.16 GiB"),
        ("cuda_running.log", FaultKind.OUT_OF_MEMORY, OUT),
        ("cuda_sick.log", FaultKind.SICK, "torch.AcceleratorError: CUDA error: uncorrectable ECC"),
    ],
)
def test_the_error_that_the_engine_named_first_is_found(name: str, kind: FaultKind, begins: str) -> None:
    fault = read(name)
    assert fault.kind is kind
    assert fault.message.startswith(begins)


def test_the_process_that_said_it_tells_the_device() -> None:
    assert read("cuda_sick.log").tensor_rank == 2
    assert read("cuda_start.log").tensor_rank is None


@pytest.mark.parametrize(
    ("words", "kind", "fitted"),
    [
        (
            ("ValueError: To serve at least one request with the model's max seq len (131072), (16.00 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (9.03 GiB). Based on the available memory, the "
            "estimated maximum model length is 73984. Try increasing `gpu_memory_utilization`"),
            FaultKind.TOO_LONG,
            73984,
        ),
        ("ValueError: No available memory for the cache blocks. Try", FaultKind.OUT_OF_MEMORY, None),
        (
            "ValueError: Free memory on device cuda:0 (20.1/79.1 GiB) on startup is less than desired GPU memory",
            FaultKind.BUSY,
            None,
        ),
        ("RuntimeError: NPU out of memory. Tried to allocate 2.00 GiB", FaultKind.OUT_OF_MEMORY, None),
        ("RuntimeError: CUDA error: GPU has fallen off the bus", FaultKind.SICK, None),
        ("ModuleNotFoundError: No module named 'vllm'", FaultKind.CERTAIN, None),
        ("pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig", FaultKind.CERTAIN, None),
        ("torch.AcceleratorError: CUDA error: unspecified launch failure", FaultKind.OTHER, None),
    ],
)  # fmt: skip
def test_an_engines_words_say_what_to_do(words: str, kind: FaultKind, fitted: int | None) -> None:
    log = EngineLog()
    log.add("Traceback (most recent call last):")
    log.add(words)
    log.add("RuntimeError: Engine core initialization failed. See root cause above.")
    fault = log.fault()
    assert fault is not None
    assert (fault.kind, fault.fitted_length) == (kind, fitted)


def test_what_an_engine_got_over_is_no_error() -> None:
    log = EngineLog()
    log.add("(EngineCore pid=1) WARNING 11-29 03:11:21 [a.py:7] Traceback (most recent call last):")
    log.add("(EngineCore pid=1) WARNING 11-29 03:11:21 [a.py:7] ImportError: no kernel of that name")
    assert log.fault() is None
    log.add("NVRM: Xid (PCI:0000:41:00): 79, pid=812, GPU has fallen off the bus.")
    fault = log.fault()
    assert fault is not None
    assert fault.kind is FaultKind.SICK


def test_after_memory_ran_out_an_engine_is_asked_for_less() -> None:
    out, long = EngineFault(FaultKind.OUT_OF_MEMORY, OUT), EngineFault(FaultKind.TOO_LONG, "", 700)
    once = Sizing().smaller(out, 256)
    assert once.applied({}, "cuda") == {
        "max_num_seqs": 128,
        "max_model_len": FITTED,
        "gpu_memory_utilization": 0.87,
    }
    assert once.applied({"max_model_len": 512, "gpu_memory_utilization": 0.7}, "npu") == {
        "max_num_seqs": 128,
        "max_model_len": 512,
        "gpu_memory_utilization": 0.65,
    }
    assert "gpu_memory_utilization" not in once.applied({}, "cpu")
    assert once.smaller(out, 128).applied({}, "cuda")["gpu_memory_utilization"] == 0.82
    assert Sizing().smaller(long, 256).applied({"max_model_len": 4096}, "cuda") == {"max_model_len": 700}
    assert Sizing().smaller(EngineFault(FaultKind.OTHER, ""), 256) == Sizing()


def test_vllms_own_number_of_requests_goes_by_the_card() -> None:
    spec = WorkerSpec("cuda", 1, "python")
    assert [usual_seqs(spec, memory) for memory in (143771, 24564, None)] == [1024, 256, 256]


def started(
    folder: Path, journal: MemoryJournal, **options: Any
) -> tuple[list[Answer | Failure], list[dict[str, Any]]]:
    """Ask forty requests of one worker: the replies, and the options of each start. Logs are kept in the folder."""
    made = pool(
        folder, journal, RunBudget(Decimal(10)), keep=folder, starts=str(folder / "starts"), **options
    )
    replies = ask(made, 40)
    made.close()
    return replies, [json.loads(line) for line in (folder / "starts").read_text().splitlines()]


def test_a_start_without_memory_is_tried_again_with_less(tmp_path: Path) -> None:
    replies, starts = started(tmp_path, MemoryJournal(), fails=1, log=str(LOGS / "cuda_start.log"))
    assert all(isinstance(reply, Answer) for reply in replies)
    assert [start.get("max_num_seqs") for start in starts] == [None, 128]
    assert [start.get("max_model_len") for start in starts] == [FITTED, FITTED]
    (log,) = (tmp_path / "workers").iterdir()
    assert OUT in log.read_text()


def test_memory_that_runs_out_in_the_engines_own_process_halves_the_next_lot(tmp_path: Path) -> None:
    replies, starts = started(tmp_path, MemoryJournal(), max_num_seqs=8, dies=str(LOGS / "cuda_running.log"))
    assert all(isinstance(reply, Answer) for reply in replies)
    assert [start["max_num_seqs"] for start in starts] == [8, 4]


def test_a_start_that_fails_twice_quotes_the_engine_and_names_its_log(tmp_path: Path) -> None:
    replies, starts = started(tmp_path, MemoryJournal(), fails=9, log=str(LOGS / "cpu_memory.log"))
    assert len(starts) == 2
    for reply in replies:
        assert isinstance(reply, Failure)
        assert reply.kind is FailureKind.WORKER_DIED
        assert "its engine said: ValueError: Available memory on node 0" in reply.message
        assert str(tmp_path / "workers") in reply.message


def test_what_would_fail_again_is_not_tried_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "Traceback (most recent call last):\nValueError: Model architectures ['X'] are not supported\n"
    )
    replies, starts = started(tmp_path, MemoryJournal(), fails=9, log=str(log))
    assert len(starts) == 1
    assert all(isinstance(reply, Failure) for reply in replies)


@pytest.mark.parametrize(
    ("part", "text_only", "options", "left_out"),
    [
        ("vision_config", True, {}, True),
        ("vision_config", False, {}, None),
        ("text_config", True, {}, None),
        ("vision_config", True, {"language_model_only": False}, False),
        ("audio_config", True, {"limit_mm_per_prompt": {"audio": 1}}, None),
    ],
)
def test_a_models_parts_for_pictures_are_left_out_where_no_request_has_more_than_text(
    tmp_path: Path, part: str, text_only: bool, options: dict[str, Any], left_out: bool | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "m", part: {}}))
    end = worker_endpoint(
        str(tmp_path),
        python=str(stand_in_python(tmp_path)),
        options={"starts": str(tmp_path / "starts"), **options},
    )
    made = VllmEngine(end, EngineContext(MemoryJournal(), RunBudget(None), text_only=text_only))
    ask(made, 2)
    made.close()
    (given,) = [json.loads(line) for line in (tmp_path / "starts").read_text().splitlines()]
    assert given.get("language_model_only") is left_out
    assert given.items() >= options.items()
