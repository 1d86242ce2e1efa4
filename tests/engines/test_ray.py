"""Workers as seats on a real Ray; their engine is a stand-in, so that deaths cost no model's start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from tests.support.paths import ROOT
from tests.support.ray_cluster import RayCluster, ended, gone, ray_cluster, until
from tests.support.seats import USD_PER_HOUR, Night, house
from thirdshift.engines.ray.cluster import Cluster, ClusterUnreachable
from thirdshift.engines.ray.head import head_here
from thirdshift.engines.ray.survey import problems, survey
from thirdshift.router.values import Answer, ClusterSpec, Failure, FailureKind


@pytest.fixture(scope="module")
def ray() -> Iterator[RayCluster]:
    """A head without seats' resources, and two nodes with room for one worker each and an NPU."""
    with ray_cluster({"CPU": 0}, {"CPU": 1, "NPU": 1}, {"CPU": 1, "NPU": 1}) as cluster:
        yield cluster


def test_seats_share_a_shard_and_are_paid_from_their_placement_on(tmp_path: Path, ray: RayCluster) -> None:
    night = Night(house(tmp_path, ray, workers=3, seconds=0.05))  # and there is room for two
    night.ask(300)
    lives = night.engine.worker_lifetimes()
    assert len({life.pid for life in lives}) == 2
    assert {reply.output for reply in night.replies if isinstance(reply, Answer)} == {
        str(life.pid) for life in lives
    }
    seconds = sum((life.stopped_at - life.started_at).total_seconds() for life in lives if life.stopped_at)
    assert abs(float(night.journal.cost / USD_PER_HOUR * 3600) - seconds) < 1.0
    assert {life.node for life in lives} == {os.uname().nodename}
    assert {rates.hardware for rates in night.engine.rates_by_hardware()} == {"1 core"}
    until(lambda: not ray.actors())


def test_a_seat_takes_an_npu_that_ray_numbers_and_is_named_for_run_endpoint_and_worker(
    tmp_path: Path, ray: RayCluster
) -> None:
    night = Night(house(tmp_path, ray, workers=1, device="npu", seconds=0.2))
    thread = night.in_background(100)
    (pid,) = night.at_work()
    assert psutil.Process(pid).environ()["ASCEND_RT_VISIBLE_DEVICES"] == "0"
    (life,) = night.engine.worker_lifetimes()
    assert life.hardware == "1 x npu"
    names = "import ray, sys; ray.init(sys.argv[1]); print(ray.util.list_named_actors(all_namespaces=True))"
    shown = subprocess.run(
        (sys.executable, "-c", names, ray.address), capture_output=True, text=True, check=True
    )
    assert f"run/{life.worker_id}" in shown.stdout
    ended(thread)
    assert night.answers == 100


def test_a_killed_actor_loses_what_it_had_and_nothing_else(tmp_path: Path, ray: RayCluster) -> None:
    night = Night(house(tmp_path, ray, seconds=0.05))
    thread = night.in_background(400)
    pids = night.at_work(workers=2, answers=20)
    psutil.Process(pids[0]).parent().kill()  # type: ignore[union-attr]
    until(lambda: gone(pids[:1]))
    ended(thread)
    assert night.answers == 400
    statuses = night.journal.statuses
    assert statuses["settled"] >= 400  # every answer once, and the leases
    assert 0 < statuses["unsettled"] <= 16
    assert all(
        outcome.cost_usd == 0 for outcome in night.journal.outcomes.values() if outcome.status == "unsettled"
    )
    assert len(night.engine.worker_lifetimes()) == 3


def test_a_process_that_is_killed_leaves_no_actor_and_no_worker(tmp_path: Path, ray: RayCluster) -> None:
    program = f"""
import sys, threading
from pathlib import Path
from tests.support.seats import Night, house
from tests.support.ray_cluster import RayCluster
night = Night(house(Path({str(tmp_path)!r}), RayCluster({ray.address!r}, (), (), 0), seconds=1.0))
night.in_background(1000)
print(*night.at_work(workers=2), flush=True)
threading.Event().wait()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src")))}
    driver = subprocess.Popen(
        (sys.executable, "-c", program), stdout=subprocess.PIPE, env=environment, cwd=ROOT
    )
    assert driver.stdout is not None
    try:
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        until(lambda: len(ray.actors()) == 2)  # those of the test before are gone
    finally:
        driver.kill()
        driver.communicate()
    until(lambda: not ray.actors() and gone(pids))


def test_with_no_seat_at_all_others_answer(tmp_path: Path, ray: RayCluster) -> None:
    whole = {"tensor_parallel_size": 2}  # no node has two
    night = Night(house(tmp_path, ray, workers=1, device="npu", **whole), elsewhere=True, seat_seconds=2.0)
    replies = night.ask(20)
    assert {reply.kind for reply in replies if isinstance(reply, Failure)} == {FailureKind.WORKER_DIED}
    assert night.journal.statuses == {"void": 20}
    assert night.engine.worker_lifetimes() == []
    assert any("0 of 1 seats" in reply.message for reply in replies if isinstance(reply, Failure))


def test_a_cluster_without_seats_is_not_waited_for_without_end(tmp_path: Path, ray: RayCluster) -> None:
    whole = {"tensor_parallel_size": 2}  # no node has two
    endpoint = house(tmp_path, ray, workers=1, device="npu", **whole)
    night = Night(endpoint, seat_seconds=1.0, no_seat_seconds=2.0)
    replies = night.ask(20)
    assert {reply.kind for reply in replies if isinstance(reply, Failure)} == {FailureKind.CANCELLED}
    assert any("`resume` goes on" in words for words in night.said)


def test_what_fewer_seats_than_planned_cannot_do_in_time_goes_back_to_the_plan(
    tmp_path: Path, ray: RayCluster
) -> None:
    night = Night(house(tmp_path, ray, workers=4, seconds=0.5), elsewhere=True)
    night.engine.plan_workers(4)  # there is room for two
    list(night.engine.collect(night.begin(64, "first")))  # seats are up
    deadline = datetime.now(UTC) + timedelta(seconds=16)
    night.engine.engine_context = replace(night.engine.engine_context, deadline=deadline)
    night.ask(2000)
    kinds = [reply.kind for reply in night.replies if isinstance(reply, Failure)]
    assert kinds.count(FailureKind.EXPIRED) > 100
    assert night.answers > 20
    assert any("would be late" in words for words in night.said)


def test_seats_that_the_plan_has_no_use_for_are_given_back(tmp_path: Path, ray: RayCluster) -> None:
    night = Night(house(tmp_path, ray, seconds=0.1))
    thread = night.in_background(600)
    night.at_work(workers=2)
    night.engine.plan_workers(1)
    until(lambda: sum(life.stopped_at is not None for life in night.engine.worker_lifetimes()) == 1)
    assert night.answers < 600
    ended(thread)
    assert night.answers == 600


def test_a_head_that_is_away_stops_nobody_at_work(tmp_path: Path, ray: RayCluster) -> None:
    night = Night(house(tmp_path, ray, seconds=0.1))
    thread = night.in_background(600)
    night.at_work(workers=2)
    os.kill(ray.head, signal.SIGSTOP)
    try:
        before = night.answers
        until(lambda: night.answers > before + 100, 60.0)
    finally:
        os.kill(ray.head, signal.SIGCONT)
    ended(thread)
    assert night.answers == 600
    assert len(night.engine.worker_lifetimes()) == 2


def test_what_a_node_lacks_is_told_with_its_name_before_anything_is_paid(
    tmp_path: Path, ray: RayCluster
) -> None:
    endpoint = replace(house(tmp_path, ray), model="/no/such/model")
    spec = endpoint.workers
    assert spec is not None
    assert spec.cluster is not None
    (sentence,) = problems(endpoint, spec, survey(spec.cluster, endpoint.model))
    assert f"node {os.uname().nodename} has no model at /no/such/model" in sentence
    night = Night(endpoint)
    replies = night.ask(4)
    assert {reply.kind for reply in replies if isinstance(reply, Failure)} == {FailureKind.WORKER_DIED}
    assert night.journal.cost == 0
    assert night.engine.worker_lifetimes() == []


def test_a_cluster_that_cannot_be_reached_is_one_sentence() -> None:
    with pytest.raises(ClusterUnreachable, match=r"127\.0\.0\.1:1 cannot be reached"):
        Cluster(ClusterSpec("127.0.0.1:1"))


def test_a_bridge_that_is_killed_before_the_plan_stops_no_run(ray: RayCluster) -> None:
    def kill() -> None:
        bridge = until(
            lambda: [
                one for one in psutil.Process().children() if "thirdshift.engines.ray.bridge" in one.cmdline()
            ]
        )
        bridge[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    found = survey(ClusterSpec(ray.address), "no/model")
    ended(killer)
    assert len(found.nodes) == 3


METERED = """
import sys
from thirdshift.engines.ray.seat import Seat
worker = "import sys, time; sys.stdin.readline(); print(chr(123) + chr(125), flush=True); time.sleep(60)"
counters = iter([1000.0, 1360.0, None])
for cards in (["GPU-0"], []):
    seat = Seat(worker, 60.0, lambda cards: next(counters))
    seat.start(sys.executable, {}, {}, cards)
    print(seat.poll(30.0)[3])
    if cards:
        print(seat.poll(0.1)[3])
    seat.end()
"""


def test_a_seat_tells_what_its_cards_have_drawn_since_its_start() -> None:
    done = subprocess.run((sys.executable, "-c", METERED), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["360.0", "None", "None"]


def test_a_seat_that_nobody_polls_ends(tmp_path: Path) -> None:
    program = "import time; from thirdshift.engines.ray.seat import Seat; Seat('', 0.5); time.sleep(60)"
    begun = time.monotonic()
    assert subprocess.run((sys.executable, "-c", program), check=False).returncode == 1
    assert time.monotonic() - begun < 30


def test_a_node_with_notice_is_left_in_time(tmp_path: Path, ray: RayCluster) -> None:
    night = Night(house(tmp_path, ray, seconds=0.1))
    thread = night.in_background(900)
    night.at_work(workers=2)
    drain = (
        "import ray, sys; from ray._raylet import GcsClient; "
        "print(GcsClient(address=sys.argv[1]).drain_node(sys.argv[2], 2, 'spot', int(sys.argv[3])))"
    )
    due = str(int((time.time() + 20) * 1000))
    subprocess.run(
        (sys.executable, "-c", drain, ray.address, ray.ids[1], due), check=True, capture_output=True
    )
    until(lambda: any(life.stopped_at for life in night.engine.worker_lifetimes()), 30.0)
    assert night.answers < 900
    ended(thread)
    assert night.answers == 900
    assert night.journal.statuses["unsettled"] == 0  # nothing was lost


def test_the_death_of_a_node_leaves_the_others_at_work(tmp_path: Path, ray: RayCluster) -> None:
    """Last: the node stays dead. The one that was drained is replaced: it may be gone by now."""
    ray.add_node({"CPU": 1, "NPU": 1})
    night = Night(house(tmp_path, ray, seconds=0.05))
    thread = night.in_background(600)
    night.at_work(workers=1)
    os.kill(ray.raylets[2], signal.SIGKILL)
    ended(thread)
    assert night.answers == 600


def test_a_node_that_is_rented_as_a_whole_holds_its_seats_and_is_paid_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes with room for two. Their Ray was started where a key was set, which no worker gets."""
    monkeypatch.setenv("PROVIDER_API_KEY", "not for workers")
    with ray_cluster({"CPU": 0}, {"CPU": 1, "NPU": 2}, {"CPU": 1, "NPU": 2}) as cluster:
        rented = house(tmp_path, cluster, device="npu", seconds=0.2, environment=str(tmp_path / "names"))
        spec = rented.workers
        assert spec is not None
        assert spec.cluster is not None
        spec = replace(spec, node_price=True, cluster=replace(spec.cluster, per_node=2))
        night = Night(replace(rented, workers=spec))
        thread = night.in_background(200)
        pids = night.at_work(workers=2)
        raylets = {psutil.Process(pid).parent().parent().pid for pid in pids}  # type: ignore[union-attr]
        ended(thread)
    assert night.answers == 200
    assert len(raylets) == 1
    names = (tmp_path / "names").read_text()
    assert "PATH" in names
    assert "PROVIDER_API_KEY" not in names
    lives = night.engine.worker_lifetimes()
    first, last = (
        min(life.started_at for life in lives),
        max(life.stopped_at for life in lives if life.stopped_at),
    )
    assert abs(float(night.journal.cost / USD_PER_HOUR * 3600) - (last - first).total_seconds()) < 1.0


def test_a_seat_ends_where_nobody_is_left_to_end_it(tmp_path: Path) -> None:
    """The Ray of its node is killed, and then the process that speaks with Ray for the run."""
    with ray_cluster({"CPU": 0}, {"CPU": 1}) as cluster:
        night = Night(house(tmp_path, cluster, workers=1, seconds=0.2), elsewhere=True, away_seconds=0.0)
        thread = night.in_background(100)
        pids = night.at_work()
        os.kill(cluster.raylets[1], signal.SIGKILL)
        for child in psutil.Process().children():
            if "thirdshift.engines.ray.bridge" in child.cmdline():
                child.kill()
        until(lambda: gone(pids), 20.0)  # far less than the silence that ends any seat
        night.engine.stop()
        ended(thread)


def test_where_no_ray_runs_or_one_was_killed_the_remedy_is_one_for_this_program() -> None:
    """Ray's own words ask for a flag that is not ours, and of a Ray that was killed it waits for minutes."""

    def none() -> str:
        raise ConnectionError("Please specify the one to connect to by setting `--address` flag")

    with pytest.raises(ConnectionError, match=r"no Ray runs on this machine; `ray start --head`"):
        head_here(none)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert head_here(lambda: address) == address
    with pytest.raises(ConnectionError, match=rf"a Ray was at {address}, and nobody listens there any more"):
        head_here(lambda: address)
