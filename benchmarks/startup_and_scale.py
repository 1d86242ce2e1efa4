"""What people wait for, this build beside an earlier one: starting, planning, sending, bookkeeping.

    python benchmarks/startup_and_scale.py --before REF [--keep FOLDER] [--only ROW …] [--scale 1.0]

REF is checked out in a worktree with an environment of its own (`--keep`: kept there for the next call). Builds take turns,
row after row: medians of 5 rounds, 2 of large inputs. Requests go to a loopback server without latency. Each row is a
share of the earlier build's figure and has one to reach; `--scale 0.1` makes the large inputs smaller, which the JSON line
says. `local` wants `.venv-vllm`, and `tests` runs `make test` of both builds for as long as they take: both are measured
where `--only` names them. Exit 1 where a row is missed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import dispatch
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from builds.trees import HERE, check_out, take_away

PLANNED, SENT, MANY_SENT, LARGE, LARGEST = 300, 2_000, 100_000, 1_000_000, 10_000_000
ROUNDS, FEW_ROUNDS = 5, 2
CHUNK = 100_000
TO_REACH = {
    "plan_cpu": 0.35,
    "run_cpu": 0.35,
    "run_to_first_request": 0.4,
    "plan_large_cpu": 0.5,
    "plan_largest_memory": 0.3,
    "request_cpu": 0.6,
    "run_many_memory": 0.5,
    "after_sending_cpu": 0.6,
    "dispatch_of_bare": 0.70,
    "local_of_bare": 0.98,
    "tests_wall": 0.6,
}
"""Shares of the earlier build's figure, at most; of bare aiohttp and of bare vLLM, at least."""
AT_LEAST = ("dispatch_of_bare", "local_of_bare")
GROWTH = 1.5
"""Peak memory of a plan for ten times the requests, at most."""
ON_DEMAND = ("local", "tests")


@dataclass(frozen=True)
class Build:
    """A working tree and the environment that it is installed in."""

    name: str
    folder: Path
    bin: Path

    @property
    def environment(self) -> dict[str, str]:
        """What it runs in. It keeps its bytecode, as an installed program does."""
        not_ours = "PYTHONPATH", "PREFECT_API_URL", "PYTHONDONTWRITEBYTECODE"
        env = {k: v for k, v in os.environ.items() if k not in not_ours}
        source = self.folder / "src"
        return env | ({"PYTHONPATH": str(source)} if source.is_dir() else {})

    def run(
        self,
        *command: str,
        cwd: Path,
        watch: Callable[[int], None] | None = None,
        codes: tuple[int, ...] = (0,),
    ) -> Used:
        """What a program of this build used, its children included. Raises SystemExit: it ended with none of `codes`."""
        with tempfile.TemporaryFile() as said:
            began = time.monotonic()
            process = subprocess.Popen(
                [str(self.bin / command[0]), *command[1:]],
                cwd=cwd, env=self.environment, stdout=said, stderr=said,
            )  # fmt: skip
            if watch is not None:
                watch(process.pid)
            _, status, used = os.wait4(process.pid, 0)
            ended = time.monotonic()
            process.returncode = os.waitstatus_to_exitcode(status)
            said.seek(0)
            text = said.read().decode(errors="replace")
        if process.returncode not in codes:
            raise SystemExit(
                f"{self.name}: {' '.join(command)} ended with {process.returncode}: {text[-2000:]}"
            )
        return Used(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, began, ended - began, text)


@dataclass(frozen=True)
class Used:
    """Processor seconds, peak memory in MiB, when it began (monotonic clock), seconds by the clock, and what it printed."""

    cpu: float
    peak_mib: float
    began: float
    wall: float
    text: str

    def last_json(self) -> dict[str, Any]:
        """The JSON object of the last line that is one."""
        lines = [line for line in self.text.splitlines() if line.startswith("{")]
        return dict(json.loads(lines[-1]))


@dataclass(frozen=True)
class Server:
    """A loopback server that answers at once, and what it has seen."""

    base: str
    first: Synchronized[float]
    """When the first request came, by the monotonic clock; 0 before that."""
    seen: Synchronized[int]

    def forget(self) -> None:
        self.first.value, self.seen.value = 0.0, 0


REPLY = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "4"}}],
    "usage": {"prompt_tokens": 60, "completion_tokens": 1, "total_tokens": 61},
}  # fmt: skip


def serve(pipe: Connection, first: Synchronized[float], seen: Synchronized[int]) -> None:
    """Answer chat completions until the process is ended, and tell when the first came and how many."""

    def came() -> None:
        if not seen.value:
            first.value = time.monotonic()
        seen.value += 1

    dispatch.serve(pipe, json.dumps(REPLY).encode(), came)


@contextmanager
def serving() -> Iterator[Server]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    first, seen = context.Value("d", 0.0), context.Value("q", 0)
    process = context.Process(target=serve, args=(there, first, seen), daemon=True)
    process.start()
    try:
        yield Server(f"http://127.0.0.1:{here.recv()}/v1", first, seen)
    finally:
        process.terminate()
        process.join()


def job(folder: Path, rows: int, base: str, endpoints: int) -> Path:
    """Write a night of so many tickets, each with the reference that the server answers; return the job's file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.yaml"
    with pq.ParquetWriter(folder / "requests.parquet", tickets(0, 1).schema) as writer:
        for begin in range(0, rows, CHUNK):
            writer.write_table(tickets(begin, min(rows, begin + CHUNK)))
    ends = [
        {
            "name": f"e{k}", "model": f"openai/m{k}", "api_base": base, "quality_prior": 0.6 + 0.1 * k,
            "price": {"input": 0.1 * 4**k, "output": 0.4 * 4**k},
            "limits": {"concurrency": 100},
        }
        for k in range(endpoints)
    ]  # fmt: skip
    night = {
        "name": "bench", "input": "requests.parquet", "output": {"path": "answers"}, "request": {"max_tokens": 64},
        "quality": {"floor": 0.55, "scorer": "exact", "pilot": 0}, "endpoints": ends,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(night))
    return path


def tickets(begin: int, end: int) -> pa.Table:
    """Rows of about 60 words."""
    words = (
        "the customer writes that his parcel arrived late and asks whether a refund is possible".split()  # noqa: SIM905
    )
    texts = [
        f"Ticket {i}: " + " ".join(words[(i * 7 + k * k) % len(words)] for k in range(20 + i % 60))
        for i in range(begin, end)
    ]
    return pa.table(
        {
            "request_id": [f"r{i:08d}" for i in range(begin, end)],
            "prompt": texts,
            "task": [f"t{i % 3}" for i in range(begin, end)],
            "reference": ["4"] * (end - begin),
        }
    )


@dataclass
class Bench:
    """Both builds, the server and a scratch folder."""

    builds: tuple[Build, Build]
    server: Server
    folder: Path
    scale: float

    def large(self, rows: int) -> int:
        return max(int(rows * self.scale), 1_000)

    def in_turn(
        self, rounds: int, measured: Callable[[Build], dict[str, float]]
    ) -> dict[str, dict[str, float]]:
        """Medians by build and figure; who begins changes with the round. Each build has one round before them that does
        not count where there are more than two: files and bytecode are cold then."""
        found: dict[str, list[dict[str, float]]] = {build.name: [] for build in self.builds}
        for number in range(rounds + (rounds > FEW_ROUNDS)):
            for build in self.builds if number % 2 == 0 else self.builds[::-1]:
                found[build.name].append(measured(build))
                print(f"round {number}: {build.name} {found[build.name][-1]}", file=sys.stderr, flush=True)
        kept = {name: values[-rounds:] for name, values in found.items()}
        return {
            name: {key: statistics.median(value[key] for value in values) for key in values[0]}
            for name, values in kept.items()
        }

    def plan(self, rows: int, rounds: int) -> dict[str, dict[str, float]]:
        """Processor seconds and peak MiB of a plan for four endpoints."""
        path = job(self.folder / f"plan-{rows}", rows, "http://127.0.0.1:9/v1", 4)

        def one(build: Build) -> dict[str, float]:
            with scratch(self.folder) as cwd:
                used = build.run(
                    "thirdshift", "plan", str(path), "--json", "--warehouse", str(cwd / "w.duckdb"), cwd=cwd
                )
            return {"cpu": used.cpu, "peak_mib": used.peak_mib, "wall": used.wall}

        return self.in_turn(rounds, one)

    def night(self, rows: int, rounds: int) -> dict[str, dict[str, float]]:
        """Processor seconds, peak MiB, seconds to the first request, processor seconds after the last one."""
        path = job(self.folder / f"run-{rows}", rows, self.server.base, 1)

        def one(build: Build) -> dict[str, float]:
            self.server.forget()
            marks: list[float] = []
            with scratch(self.folder) as cwd:
                command = ("thirdshift", "run", str(path), "--yes", "--warehouse", str(cwd / "w.duckdb"))
                used = build.run(*command, cwd=cwd, watch=partial(self._mark, rows, marks))
            if self.server.seen.value < rows:
                raise SystemExit(f"{build.name}: the server saw {self.server.seen.value} of {rows} requests")
            return {
                "cpu": used.cpu,
                "peak_mib": used.peak_mib,
                "to_first": self.server.first.value - used.began,
                "after_last": used.cpu - marks[0],
            }

        return self.in_turn(rounds, one)

    def _mark(self, rows: int, marks: list[float], pid: int) -> None:
        """Note the processor seconds of a process and its children when the server has seen all requests."""
        process = psutil.Process(pid)
        while self.server.seen.value < rows and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.02)
        marks.append(sum(_cpu(one) for one in (process, *process.children(recursive=True))))


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        yield Path(name)


def share(found: dict[str, dict[str, float]], key: str) -> float:
    """Return this build's figure as a share of the earlier one's."""
    return found["this"][key] / found["before"][key]


def figures(bench: Bench, wanted: list[str]) -> dict[str, float]:
    """Measure the rows that are wanted."""
    reached: dict[str, float] = {}
    if "plan" in wanted:
        reached["plan_cpu"] = share(bench.plan(PLANNED, ROUNDS), "cpu")
    small = bench.night(SENT, ROUNDS) if {"run", "many"} & set(wanted) else {}
    if "run" in wanted:
        reached |= {"run_cpu": share(small, "cpu"), "run_to_first_request": share(small, "to_first")}
    if "large" in wanted:
        reached |= planned_at_scale(bench)
    if "many" in wanted:
        reached |= sent_at_scale(bench, small)
    # a process of `dispatch` is some per cent faster or slower for as long as it lives; `local` has its own rounds
    benchmarks = {
        "dispatch": ("dispatch_of_bare", "of_bare_by_processor", ROUNDS),
        "local": ("local_of_bare", "ratio", 1),
    }
    for name, (row, key, times) in benchmarks.items():
        if name in wanted:
            command = ("python", f"benchmarks/{name}.py")
            this = bench.builds[1]
            # 1: it missed a figure of its own
            told = [this.run(*command, cwd=this.folder, codes=(0, 1)) for _ in range(times)]
            reached[row] = statistics.median(float(one.last_json()[key]) for one in told)
    if "tests" in wanted:
        walls = {build.name: {"wall": tested(build)} for build in bench.builds}
        reached["tests_wall"] = share(walls, "wall")
    return reached


def planned_at_scale(bench: Bench) -> dict[str, float]:
    """Plans of a million and ten million requests for four endpoints."""
    large, largest = (bench.plan(bench.large(rows), FEW_ROUNDS) for rows in (LARGE, LARGEST))
    return {
        "plan_large_cpu": share(large, "cpu"),
        "plan_largest_memory": share(largest, "peak_mib"),
        "plan_memory_growth": largest["this"]["peak_mib"] / large["this"]["peak_mib"],
    }


def sent_at_scale(bench: Bench, small: dict[str, dict[str, float]]) -> dict[str, float]:
    """A night of a hundred thousand requests, by what it takes beyond a small one."""
    many = bench.night(bench.large(MANY_SENT), FEW_ROUNDS)
    beyond = {name: {"cpu": many[name]["cpu"] - small[name]["cpu"]} for name in many}
    return {
        "request_cpu": share(beyond, "cpu"),
        "run_many_memory": share(many, "peak_mib"),
        "after_sending_cpu": share(many, "after_last"),
    }


def tested(build: Build) -> float:
    """Seconds of `make test`."""
    began = time.monotonic()
    subprocess.run(["make", "test"], cwd=build.folder, env=build.environment, check=True, stdout=sys.stderr)
    return time.monotonic() - began


def earlier(ref: str, folder: Path) -> Build:
    """Check REF out and install it, where it is not there yet."""
    tree, env = folder / "tree", folder / "env"
    if not tree.is_dir():
        check_out(ref, tree)
    if not (env / "bin" / "thirdshift").exists():
        print(f"installing {ref} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(env)], check=True)
        pip = [str(env / "bin" / "pip"), "install", "--quiet"]
        subprocess.run([*pip, "-r", "requirements.txt"], cwd=tree, check=True, stdout=sys.stderr)
        subprocess.run([*pip, "--no-deps", "-e", "."], cwd=tree, check=True, stdout=sys.stderr)
    return Build("before", tree, env / "bin")


def missed(reached: dict[str, float]) -> list[str]:
    """The rows that are not met, in words."""
    words = []
    for row, value in reached.items():
        bound = GROWTH if row == "plan_memory_growth" else TO_REACH[row]
        least = row in AT_LEAST
        if value < bound if least else value > bound:
            words.append(f"{row} {value:.3f} where at {'least' if least else 'most'} {bound} is asked")
    return words


def main() -> int:
    names = ["plan", "run", "large", "many", "dispatch", *ON_DEMAND]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", required=True, metavar="REF")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=names, default=[n for n in names if n not in ON_DEMAND])
    parser.add_argument("--scale", type=float, default=1.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serving() as server:
        kept = args.keep or Path(name)
        kept.mkdir(parents=True, exist_ok=True)
        before = earlier(args.before, kept.resolve())
        this = Build("this", HERE, Path(sys.executable).parent)
        try:
            reached = figures(Bench((before, this), server, Path(name), args.scale), args.only)
        finally:
            if args.keep is None:
                take_away(before.folder)
    why = missed(reached)
    print("\n".join(why) or "met", file=sys.stderr)
    rounded = {row: round(value, 3) for row, value in reached.items()}
    load = round(os.getloadavg()[0], 1)
    print(
        json.dumps(
            {
                "benchmark": "startup_and_scale",
                "before": args.before,
                "scale": args.scale,
                **rounded,
                "load": load,
                "met": not why,
            }
        )
    )
    return 1 if why else 0


if __name__ == "__main__":
    raise SystemExit(main())
