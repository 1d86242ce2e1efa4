"""GPUs and NPUs as their tools print them, and which of them a process may use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.workers import worker_endpoint
from thirdshift.engines.devices import (
    Device,
    Machine,
    ascend,
    environment,
    hardware,
    machine,
    nvidia,
    parse_ascend,
    parse_nvidia,
    width,
)
from thirdshift.engines.vllm.placing import on_cores
from thirdshift.engines.vllm.preflight import check
from thirdshift.engines.vllm.process import cpu_environment
from thirdshift.router.values import WorkerSpec

# --- NVIDIA ---

GPUS = """\
0, GPU-5f2a, NVIDIA H200, 143771, 143203, Disabled
1, GPU-5f2b, NVIDIA H200, 143771, 9011, Disabled
2, GPU-77aa, NVIDIA A100-SXM4-40GB, 40960, 40337, Enabled
3, GPU-91cc, NVIDIA H200, 143771, [N/A], [N/A]
"""
LISTED = """\
GPU 0: NVIDIA H200 (UUID: GPU-5f2a)
GPU 1: NVIDIA H200 (UUID: GPU-5f2b)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-77aa)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef)
  MIG 1g.5gb      Device  1: (UUID: MIG-cba663e8)
GPU 3: NVIDIA H200 (UUID: GPU-91cc)
"""
ALL = parse_nvidia(GPUS, lambda: LISTED)


def test_gpus_have_their_uuid_and_a_divided_one_is_its_parts() -> None:
    assert [device.uuid for device in ALL] == [
        "GPU-5f2a",
        "GPU-5f2b",
        "MIG-c6d4f1ef",
        "MIG-cba663e8",
        "GPU-91cc",
    ]
    assert ALL[1] == Device("cuda", 1, "NVIDIA H200", 143771, "GPU-5f2b", 9011)
    assert (ALL[2].name, ALL[2].memory_mib) == ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 20480)
    assert ALL[4].free_mib is None


@pytest.mark.parametrize(
    ("value", "uuids"),
    [
        (None, ["GPU-5f2a", "GPU-5f2b", "MIG-c6d4f1ef", "MIG-cba663e8", "GPU-91cc"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("3,1", ["GPU-91cc", "GPU-5f2b"]),
        ("0, 1", ["GPU-5f2a", "GPU-5f2b"]),
        ("1,-1,0", ["GPU-5f2b"]),
        ("1,9,0", ["GPU-5f2b"]),
        ("1,1", []),
        ("GPU-91", ["GPU-91cc"]),
        ("GPU-5f2", []),
        ("GPU-5f2b,GPU-5f2a", ["GPU-5f2b", "GPU-5f2a"]),
        ("MIG-cb", ["MIG-cba663e8"]),
    ],
)
def test_what_cuda_visible_devices_leaves_is_what_cuda_makes_of_it(
    value: str | None, uuids: list[str]
) -> None:
    assert [device.uuid for device in nvidia.visible(ALL, value)] == uuids


def test_a_gpu_that_is_lost_is_seen_and_given_to_nobody() -> None:
    """As nvidia-smi prints it: an error in place of each figure, or a line of words among those of the others."""
    printed = (
        "Unable to determine the device handle for GPU 0000:BA:00.0: Unknown Error\n"
        "0, GPU-5f2a, NVIDIA H200, 143771, 143203, Disabled, 570.86.15\n"
        "1, [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost]\n"
        "2, [Unknown Error], NVIDIA H200, [Unknown Error], [Unknown Error], [N/A], 570.86.15\n"
        "3, GPU-91cc, NVIDIA GB10, [N/A], [N/A], [N/A], 580.95.05\n"
    )
    here = Machine(parse_nvidia(printed), (), (0,))
    assert [device.uuid for device in here.of("cuda")] == ["GPU-5f2a", "GPU-91cc"]
    problems = check(worker_endpoint(device="cuda", workers=3), here)
    assert any("nvidia-smi says of NVIDIA GPU 1, 2 that it is not OK" in problem for problem in problems)


def test_parts_of_gpus_have_names_with_marks_and_uuids_of_two_kinds() -> None:
    listed = (
        "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-77aa)\n"
        "  MIG 1g.10gb+me  Device  0: (UUID: MIG-c6d4f1ef)\n"
        "  MIG 1c.3g.40gb  Device  1: (UUID: MIG-GPU-77aa/1/0)\n"
    )
    parts = parse_nvidia(
        "0, GPU-77aa, NVIDIA H100 80GB HBM3, 81559, 80000, Enabled, 570.86.15\n", lambda: listed
    )
    assert [(part.uuid, part.memory_mib) for part in parts] == [
        ("MIG-c6d4f1ef", 10240),
        ("MIG-GPU-77aa/1/0", 40960),
    ]
    assert nvidia.visible(parts, "MIG-GPU-77aa/1/0") == parts[1:]
    assert parse_nvidia("0, GPU-77aa, NVIDIA H100, 81559, 80000, Enabled, 570\n") == (), (
        "divided, no part made"
    )


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Make what stands for a tool: its name, and the shell that it runs."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)

    def make(name: str, shell: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{shell}\n")
        (tmp_path / name).chmod(0o700)
        machine.cache_clear()

    yield make
    machine.cache_clear()


def test_a_tool_that_fails_for_one_gpu_is_believed_of_the_others(tool: Callable[[str, str], None]) -> None:
    tool("nvidia-smi", "echo '0, GPU-0, NVIDIA H200, 143771, 143000, Disabled, 570'; exit 15")
    assert [device.uuid for device in machine().gpus] == ["GPU-0"]


@pytest.mark.parametrize(
    ("words", "status"),
    [("dcmi model initialized failed, because the device is used. ret is -8020", 0), ("", 3)],
)
def test_a_tool_that_prints_no_table_is_quoted(
    tool: Callable[[str, str], None], words: str, status: int
) -> None:
    tool("npu-smi", f"printf '%s' '{words}'; exit {status}")
    (problem,) = [one for one in check(worker_endpoint(device="npu")) if "shows no" in one]
    assert f"npu-smi info shows no Ascend NPU here; it says: {words or 'nothing (status 3)'}" in problem


def test_where_no_device_is_seen_the_tools_own_words_say_why(tool: Callable[[str, str], None]) -> None:
    tool(
        "nvidia-smi", 'echo "NVIDIA-SMI has failed because it couldn\'t communicate with the driver."; exit 9'
    )
    (problem,) = [one for one in check(worker_endpoint(device="cuda")) if "shows no" in one]
    assert "it says: NVIDIA-SMI has failed because it couldn't communicate with the driver." in problem


def test_a_tool_that_is_not_there_is_told(tool: Callable[[str, str], None]) -> None:
    tool("other", "true")
    problems = check(worker_endpoint(device="cuda"))
    assert any("there is no nvidia-smi; a container is given it by" in problem for problem in problems), (
        problems
    )


def test_a_variable_that_hides_all_devices_is_named(
    tool: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "0, GPU-0, NVIDIA H200, 143771, 143000, Disabled, 570"
    tool("nvidia-smi", f"""test -n "$1" && echo '{line}' || echo '|   0  NVIDIA H200   On |'""")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7")
    problems = check(worker_endpoint(device="cuda"))
    assert any("no NVIDIA GPU here that CUDA_VISIBLE_DEVICES=GPU-7 leaves" in one for one in problems), (
        problems
    )


def test_a_number_among_unlike_gpus_is_doubted_though_it_leaves_one(
    tool: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "0, GPU-0, NVIDIA H200, 143771, 143000, Disabled, 570\n1, GPU-1, NVIDIA L4, 23034, 23000, Disabled, 570"
    tool("nvidia-smi", f"cat <<END\n{lines}\nEND")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    problems = check(worker_endpoint(device="cuda"))
    assert any("numbers unlike GPUs" in problem for problem in problems), problems


def test_numbers_of_unlike_gpus_want_an_order() -> None:
    unlike = (Device("cuda", 0, "H200"), Device("cuda", 1, "L4"))
    words = nvidia.doubtful(unlike, {"CUDA_VISIBLE_DEVICES": "1"})
    assert words is not None
    assert "PCI_BUS_ID" in words
    for environ in (
        {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        {"CUDA_VISIBLE_DEVICES": "GPU-1"},
        {},
    ):
        assert nvidia.doubtful(unlike, environ) is None
    assert nvidia.doubtful(unlike[:1] * 2, {"CUDA_VISIBLE_DEVICES": "1"}) is None


# --- Ascend: as npu-smi printed them for users (vllm-ascend's and gpustack's issue threads), shortened ---

HEAD = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 25.5.0                   Version: 25.5.0                                               |
+---------------------------+---------------+----------------------------------------------------+
"""
A2 = f"""{HEAD}\
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 4     910B3               | OK            | 93.6        45                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3400 / 65536         |
+===========================+===============+====================================================+
| 5     910B3               | Alarm         | 91.0        44                0    / 0             |
| 0                         | 0000:C2:00.0  | 0           0    / 0          3390 / 65536         |
+===========================+===============+====================================================+
| 6     910B3               | OK            | 91.0        44                0    / 0             |
| 0                         | 0000:41:00.0  | 0           0    / 0          60000/ 65536         |
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 6       0                 | 1123          | python3.11               | 57801                   |
| No running processes found in NPU 4                                                            |
"""
A3 = f"""{HEAD}\
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     Ascend910           | OK            | 178.7       37                0    / 0             |
| 0     0                   | 0000:9D:00.0  | 0           0    / 0          3419 / 65536         |
+------------------------------------------------------------------------------------------------+
| 0     Ascend910           | OK            | -           36                0    / 0             |
| 1     1                   | 0000:9F:00.0  | 0           0    / 0          3196 / 65536         |
"""
P310 = """\
+--------------------------------------------------------------------------------------------------------+
| NPU     Name                  | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
+===============================+=================+======================================================+
| 1       310P3                 | OK              | NA           59                0     / 0             |
| 0       0                     | 0000:01:00.0    | 0            1397 / 44280                            |
+-------------------------------+-----------------+------------------------------------------------------+
| 1       310P3                 | OK              | NA           58                0     / 0             |
| 1       1                     | 0000:01:00.0    | 0            1520 / 43693                            |
"""
A5 = """\
| NPU ID | Name         | Health        | Power(W)     Temp(C)           Hugepages-Usage(page) |
|        |              | Bus-Id        | NPU Util(%)  Memory-Usage(MB)  HBM-Usage(MB)         |
+========+==============+===============+======================================================+
| 0      | Ascend950PR  | OK            | 276.0        69                0    / 0              |
|        |              | 0000:71:00.0  | 99           0    / 0          8824 / 131072         |
+--------+--------------+---------------+------------------------------------------------------+
| 1      | Ascend950PR  | Warning       | 276.0        69                0    / 0              |
|        |              | 0000:72:00.0  | 0            0    / 0          3024 / 131072         |
"""


@pytest.mark.parametrize(
    ("table", "name", "memory", "free", "well"),
    [
        (A2, "Ascend 910B3", [65536] * 3, [62136, 62146, 5536], [True, False, True]),
        (A3, "Ascend 910", [65536] * 2, [62117, 62340], [True, True]),
        (P310, "Ascend 310P3", [44280, 43693], [42883, 42173], [True, True]),
        (A5, "Ascend 950PR", [131072] * 2, [122248, 128048], [True, False]),
    ],
)
def test_the_tables_of_every_generation_are_read(
    table: str, name: str, memory: list[int], free: list[int], well: list[bool]
) -> None:
    devices = parse_ascend(table)
    assert {device.name for device in devices} == {name}
    assert [device.memory_mib for device in devices] == memory
    assert [device.free_mib for device in devices] == free
    assert [device.healthy for device in devices] == well
    assert [device.index for device in devices] == list(range(len(devices))), "as the runtime counts"
    assert len({device.uuid for device in devices}) == len(devices)


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        (None, [0, 1, 2]),
        ("2,0", [2, 0]),
        ("", []),
        ("1,7,0", [1]),
        ("1, 2", [1]),
        ("0-2", [0]),
        ("1,1,2", [1, 2]),
        ("-1", []),
    ],
)
def test_visible_npus_are_places_in_the_table(value: str | None, numbers: list[int]) -> None:
    assert [device.index for device in ascend.visible(parse_ascend(A2), value)] == numbers


def test_npus_are_named_in_ascending_order_alone() -> None:
    """CANN's documentation: numbers with commas between them, in ascending order, and nothing else."""
    npus = ascend.visible(parse_ascend(A2), "2,0")
    assert environment(npus) == {"ASCEND_RT_VISIBLE_DEVICES": "0,2"}
    for value in ("0-2", "1, 2", "all"):
        assert "CANN reads" in (ascend.doubtful({"ASCEND_RT_VISIBLE_DEVICES": value}) or "")
    for environ in ({"ASCEND_RT_VISIBLE_DEVICES": "0,1"}, {"ASCEND_RT_VISIBLE_DEVICES": ""}, {}):
        assert ascend.doubtful(environ) is None


def test_a_range_of_npus_is_told_before_anything_is_started(
    tool: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("npu-smi", f"cat <<'END'\n{A2}\nEND")
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0-2")
    problems = check(worker_endpoint(device="npu", workers=2))
    assert any("CANN reads 0:" in problem for problem in problems), problems


def test_an_npu_in_ill_health_is_given_to_no_worker() -> None:
    here = Machine((), parse_ascend(A2), (0,))
    assert [device.index for device in here.of("npu")] == [0, 2]
    assert environment(here.of("npu")) == {"ASCEND_RT_VISIBLE_DEVICES": "0,2"}
    problems = check(worker_endpoint(device="npu", workers=3), here)
    assert any("1 that it is not OK" in problem for problem in problems), problems


@pytest.mark.parametrize(("table", "built"), [(A2, "A2"), (A3, "A3"), (P310, "_310P"), (A5, "A5")])
def test_a_chips_generation_is_what_vllm_ascend_is_built_for(table: str, built: str) -> None:
    assert {ascend.generation(device.name) for device in parse_ascend(table)} == {built}
    assert ascend.generation("Ascend 1200") is None


def test_a_vllm_ascend_that_is_built_for_another_chip_is_told(tmp_path: Path) -> None:
    site = tmp_path / "vllm_ascend"
    site.mkdir()
    (site / "__init__.py").touch()
    (site / "_build_info.py").write_text("# Auto-generated file\n__device_type__ = 'A2'\n")
    (tmp_path / "vllm.py").touch()
    entry = tmp_path / "vllm_ascend-0.23.0.dist-info"
    entry.mkdir()
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm_ascend\nVersion: 0.23.0\n")
    (entry / "entry_points.txt").write_text("[vllm.platform_plugins]\nascend = vllm_ascend:register\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    end = worker_endpoint(device="npu", python=str(python))
    problems = check(end, Machine((), parse_ascend(A3), (0,)))
    assert any("is built for A2, and Ascend 910 is A3" in problem for problem in problems), problems
    assert check(end, Machine((), parse_ascend(A2), (0,))) == []


# --- workers ---


def test_workers_are_given_devices_by_name_and_cores_of_their_own() -> None:
    gpus = tuple(Device("cuda", n, "H200", uuid=f"GPU-{n}") for n in range(4))
    spec = WorkerSpec("cuda", 2, "python", {"tensor_parallel_size": 2})
    here = Machine(gpus, (), (0, 1, 2, 3))
    assert hardware(spec, here) == "2 x H200"
    assert environment(gpus[1:3]) == {
        "CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    cores = [on_cores(replace(spec, device="cpu", options={}), n, here).cores for n in range(2)]
    assert cores == [(0, 1), (2, 3)]


def test_every_split_that_takes_devices_counts() -> None:
    assert (
        width({"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "prefill_context_parallel_size": 2})
        == 8
    )
    assert width({"decode_context_parallel_size": 2, "tensor_parallel_size": 4}) == 4


def test_a_part_of_a_gpu_works_alone() -> None:
    parts = tuple(device for device in ALL if device.uuid.startswith("MIG-"))
    here = Machine(parts, (), (0,))
    problems = check(worker_endpoint(device="cuda", options={"tensor_parallel_size": 2}), here)
    assert any("MIG" in problem for problem in problems), problems


def test_the_drivers_version_is_read_where_its_tool_tells_it() -> None:
    (card,) = parse_nvidia("0, GPU-0, NVIDIA H200, 143771, 143000, Disabled, 570.86.15\n")
    assert (card.name, card.free_mib, card.driver) == ("NVIDIA H200", 143000, "570.86.15")
    (without,) = parse_nvidia("0, GPU-0, NVIDIA H200, 143771, 143000, Disabled\n")
    assert without.driver == ""
    assert {npu.driver for npu in parse_ascend(A2)} == {"25.5.0"}


def test_a_jobs_own_size_of_the_cache_is_not_overridden_on_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    usual, stated = (
        cpu_environment(WorkerSpec("cpu", 1, "python", options), (0, 1))
        for options in ({}, {"kv_cache_memory_bytes": 1 << 18})
    )
    assert usual["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" not in stated
