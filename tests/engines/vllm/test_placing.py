"""Devices are lent to one worker at a time: stand-in workers on GPUs that a stand-in nvidia-smi prints."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import MemoryJournal
from tests.support.patience import PATIENCE_SECONDS
from tests.support.workers import ask, pool
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.devices import Device, Machine, machine
from thirdshift.engines.devices.allocation import VARIABLE, DeviceAllocator
from thirdshift.engines.vllm.deaths import NoPlace
from thirdshift.engines.vllm.engine import VllmEngine
from thirdshift.engines.vllm.placing import DevicePlacer, room
from thirdshift.router.values import Answer, Failure, WorkerSpec

LOGS = Path(__file__).with_name("logs")
CARDS = [Device("cuda", number, "H200", 143771, f"GPU-{number}", 143000) for number in range(4)]


# --- the allocator ---


def test_a_device_is_lent_once_until_it_is_given_back(tmp_path: Path) -> None:
    ours, theirs = DeviceAllocator(tmp_path), DeviceAllocator(tmp_path)
    three = ours.take(CARDS, 3)
    assert three is not None
    assert [device.index for device in three.devices] == [0, 1, 2]
    assert theirs.take(CARDS, 2) is None, "one is free, and half of what is asked for is not held"
    last = theirs.take(CARDS, 1)
    assert last is not None
    assert [device.index for device in last.devices] == [3]
    three.release()
    three.release()
    again = theirs.take(CARDS, 3)
    assert again is not None


def test_the_lock_lasts_as_long_as_the_worker_that_inherited_it(tmp_path: Path) -> None:
    ours = DeviceAllocator(tmp_path)
    taken = ours.take(CARDS, 1)
    assert taken is not None
    worker = subprocess.Popen(
        (sys.executable, "-c", "input()"), stdin=subprocess.PIPE, pass_fds=taken.descriptors
    )
    taken.release()
    assert ours.take(CARDS[:1], 1) is None
    worker.kill()
    worker.communicate()
    assert ours.take(CARDS[:1], 1) is not None


AS_LINUX = """
import os, sys
from pathlib import Path
from thirdshift.engines.devices import Device
from thirdshift.engines.devices.allocation import DeviceAllocator

def guard(event, given):
    if event == "open" and given[2] & os.O_CREAT and os.path.exists(given[0]):
        raise PermissionError(13, "another's file", given[0])

sys.addaudithook(guard)
print(DeviceAllocator(Path(sys.argv[1])).take([Device("cuda", 0, "H200", uuid="GPU-0")], 1) is not None)
"""


def test_locks_that_another_user_has_made_are_opened_in_a_folder_like_tmp(tmp_path: Path) -> None:
    """Where `fs.protected_regular` is set, O_CREAT on another's file is refused there; a hook refuses it on every file."""
    taken = DeviceAllocator(tmp_path).take(CARDS[:1], 1)
    assert taken is not None
    taken.release()
    (lock,) = tmp_path.glob("*GPU-0*")
    assert lock.stat().st_mode & 0o777 == 0o666
    done = subprocess.run(
        (sys.executable, "-c", AS_LINUX, str(tmp_path)), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


def test_a_lock_that_cannot_be_opened_is_told_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "locks").touch()
    with pytest.raises(NoPlace, match=f"let {VARIABLE} name a folder"):
        placer(tmp_path / "locks", CARDS).find(0, wanted)
    shared = placer(tmp_path / "locks", CARDS, device="cpu", workers=2).find(0, wanted)
    assert shared is not None
    assert shared.cores == (0,)


def test_who_waits_is_seen(tmp_path: Path) -> None:
    ours, theirs = DeviceAllocator(tmp_path), DeviceAllocator(tmp_path)
    assert not ours.wanted("cuda")
    with theirs.wanting("cuda"):
        assert ours.wanted("cuda")
        assert not ours.wanted("npu")
    assert not ours.wanted("cuda")


def test_a_device_that_failed_is_lent_to_nobody(tmp_path: Path) -> None:
    ours, theirs = DeviceAllocator(tmp_path), DeviceAllocator(tmp_path)
    pair = ours.take(CARDS, 2)
    assert pair is not None
    ours.leave_out(pair, pair.devices[1:])
    pair.release()
    assert [device.index for device in ours.sound(CARDS)] == [0, 2, 3]
    for allocator in (ours, theirs):
        taken = allocator.take(CARDS, 2)
        assert taken is not None
        assert [device.index for device in taken.devices] == [0, 2]
        taken.release()


@pytest.mark.parametrize(
    ("free", "options", "fits"),
    [
        (143000, {}, True),
        (100000, {}, False),
        (100000, {"gpu_memory_utilization": 0.6}, True),
        (100, {"kv_cache_memory_bytes": 1}, True),
        (None, {}, True),
    ],
)
def test_memory_that_others_hold_is_seen_before_a_start(
    free: int | None, options: dict[str, Any], fits: bool
) -> None:
    assert room(Device("cuda", 0, "H200", 143771, "GPU-0", free), options) is fits


# --- where workers go ---


def placer(folder: Path, *looks: Sequence[Device], workers: int = 1, **given: Any) -> DevicePlacer:
    """A placer that sees these devices, look by look, the last for ever."""
    several = list(looks)
    spec = WorkerSpec(given.pop("device", "cuda"), workers, "python", given.pop("options", {}))
    known = Machine(tuple(CARDS), (), (0, 1))
    return DevicePlacer(
        "house", spec, known, lambda _: several.pop(0) if len(several) > 1 else several[0],
        lambda _: None, elsewhere=True, allocator=DeviceAllocator(folder), **given,
    )  # fmt: skip


def wanted() -> bool:
    return True


def test_a_look_that_shows_nothing_is_no_machine_without_devices(tmp_path: Path) -> None:
    place = placer(tmp_path, [], CARDS[:2]).find(0, wanted)
    assert place is not None
    assert place.environment["CUDA_VISIBLE_DEVICES"] == "GPU-0"


def test_a_gpu_that_vanishes_is_not_waited_for_without_end(tmp_path: Path) -> None:
    with pytest.raises(NoPlace, match="0 sound ones are here"):
        placer(tmp_path, [], unseen_seconds=0.0).find(0, wanted)


def test_the_gpus_of_a_worker_are_of_one_model_and_give_its_speed_their_name(tmp_path: Path) -> None:
    small = [Device("cuda", 4 + n, "L4", 23034, f"GPU-{4 + n}", 23000) for n in range(2)]
    both = placer(tmp_path, [CARDS[0], *small], options={"tensor_parallel_size": 2})
    place = both.find(0, wanted)
    assert place is not None
    assert place.environment["CUDA_VISIBLE_DEVICES"] == "GPU-4,GPU-5"
    assert place.hardware == "2 x L4"
    unlike = placer(tmp_path / "others", [CARDS[0], small[0]], options={"tensor_parallel_size": 2})
    assert unlike.find(0, wanted) is not None, "a machine's only two"


def test_workers_of_two_models_take_cores_of_their_own_while_there_are_some(tmp_path: Path) -> None:
    one, other = (placer(tmp_path, [], workers=2, device="cpu") for _ in range(2))
    first, second, third = (each.find(0, wanted) for each in (one, other, one))
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.cores, second.cores) == ((0,), (1,))
    assert second.environment["VLLM_CPU_OMP_THREADS_BIND"] == "1"
    assert third.cores == (0,), "all are in use: they are shared"
    assert first.rented == ()
    first.release()
    assert (again := other.find(1, wanted)) is not None
    assert again.cores == (0,)


# --- pools ---


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Set how much memory of each GPU is free; a stand-in nvidia-smi prints them."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path('/usr/bin')}:{Path('/bin')}")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "locks"))
    tool = tmp_path / "nvidia-smi"

    def there_are(*free: int) -> None:
        lines = [f"{n}, GPU-{n}, NVIDIA H200, 143771, {mib}, Disabled" for n, mib in enumerate(free)]
        tool.write_text("#!/bin/sh\ncat <<END\n" + "\n".join(lines) + "\nEND\n")
        tool.chmod(0o700)
        machine.cache_clear()

    yield there_are
    machine.cache_clear()


def one_pool(folder: Path, name: str, say: Callable[[str], None], **options: Any) -> VllmEngine:
    place = folder / name
    place.mkdir()
    return pool(
        place,
        MemoryJournal(),
        RunBudget(Decimal(10)),
        device="cuda",
        say=say,
        seconds=0.3,
        **options,
    )


def test_two_models_never_share_a_gpu_and_an_idle_one_makes_room(
    tmp_path: Path, cards: Callable[..., None]
) -> None:
    """After a pilot the model that is loaded goes on with its part while the other waits: each is loaded once."""
    cards(143000)
    words: list[str] = []
    first, second = one_pool(tmp_path, "a", words.append), one_pool(tmp_path, "b", words.append)
    replies = ask(first, 3, "pilot")
    asking = [
        threading.Thread(target=lambda one=one, count=count: replies.extend(ask(one, count)))
        for one, count in ((second, 10), (first, 7))
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(PATIENCE_SECONDS)
    lives = sorted(
        (life for one in (first, second) for life in one.worker_lifetimes()), key=lambda life: life.started_at
    )
    first.close()
    second.close()
    assert len(lives) == 2
    assert sum(isinstance(reply, Answer) for reply in replies) == 20
    assert lives[0].stopped_at is not None
    assert lives[0].stopped_at <= lives[1].started_at
    assert any("waits for 1 cuda device" in sentence for sentence in words)


def test_a_gpu_whose_memory_others_hold_is_waited_for(tmp_path: Path, cards: Callable[..., None]) -> None:
    cards(9000)
    waits = threading.Event()
    made = one_pool(tmp_path, "a", lambda _: waits.set())
    replies: list[Answer | Failure] = []
    asking = threading.Thread(target=lambda: replies.extend(ask(made, 3)))
    asking.start()
    assert waits.wait(PATIENCE_SECONDS)
    assert made.worker_lifetimes() == []
    cards(140000)
    asking.join(PATIENCE_SECONDS)
    made.close()
    assert [isinstance(reply, Answer) for reply in replies] == [True] * 3


def test_after_an_ecc_error_the_next_start_takes_another_gpu(
    tmp_path: Path, cards: Callable[..., None]
) -> None:
    cards(143000, 143000)
    words: list[str] = []
    log = str(LOGS / "cuda_sick.log")
    made = one_pool(tmp_path, "a", words.append, starts=str(tmp_path / "starts"), fails=1, log=log)
    assert all(isinstance(reply, Answer) for reply in ask(made, 3))
    made.close()
    assert any("device 0 (NVIDIA H200) is left out" in sentence for sentence in words), words
