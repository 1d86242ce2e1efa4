"""What is installed: a wheel that claims one name, and works beside a project with folders named as ours are."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.support.nights import ask, environment, write_job, write_sums
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_SECONDS
from tests.support.servers import cheap, emulated

PACKAGES = ("flows", "router", "engines", "warehouse")
SHIPPED = {".py", ".toml", ".html", ".css", ".j2", ".typed", ".sql", ".yaml"}
"""What of the packages' folders a wheel must hold."""
BUILD = """
import sys
from setuptools import build_meta
place = sys.argv[1]  # a build has an argv of its own
print(build_meta.build_sdist(place), build_meta.build_wheel(place))
"""
THEIRS = '''
"""Their flow, which happens to live in a folder named as one of ours."""
from prefect import flow

from engines.motor import POWER
from router.table import ROUTES
from warehouse.shelves import SHELVES


@flow
def theirs() -> int:
    return POWER + ROUTES + SHELVES


if __name__ == "__main__":
    print("theirs:", theirs())
'''
LOADS = """
from prefect.flows import load_flow_from_entrypoint
for entrypoint in ("thirdshift.flows.night:night", "thirdshift.flows.night.night"):
    print(load_flow_from_entrypoint(entrypoint).name)
"""


def copied_into_the_image() -> list[str]:
    """What the Dockerfile takes from the checkout."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    return [name for names in copies for name in names]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel and the source distribution, built from what the Dockerfile copies."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "checkout"
    copy.mkdir()
    for name in copied_into_the_image():
        if (ROOT / name).is_dir():
            unwanted = shutil.ignore_patterns("*.egg-info", "__pycache__")
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=unwanted)
        else:
            shutil.copy(ROOT / name, copy / name)
    subprocess.run(
        [sys.executable, "-c", BUILD, folder],
        cwd=copy,
        check=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of a bare environment with the wheel in it; what it depends on is read from the environment of the tests."""
    place = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", place], check=True, timeout=PATIENCE_SECONDS
    )
    (site,) = place.glob("lib/python*/site-packages")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", "--no-deps", "--no-index",
         "--quiet", "--disable-pip-version-check", wheel],
        check=True, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin"


@pytest.fixture(params=[True, False], ids=["packages", "namespaces"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A user's project with folders of our names, as packages or without `__init__.py`."""
    texts = {
        "flows/mine.py": THEIRS,
        "engines/motor.py": "POWER = 1\n",
        "router/table.py": "ROUTES = 20\n",
        "warehouse/shelves.py": "SHELVES = 300\n",
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(text)
        if request.param:
            (path.parent / "__init__.py").touch()
    return tmp_path


def there(project: Path) -> dict[str, str]:
    """The environment of somebody at work in the project: it is where Python looks first."""
    return {**environment(), "PYTHONPATH": str(project), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}


def runs(project: Path, *words: str | Path) -> str:
    """What a program prints that ends well in the project."""
    done = subprocess.run(
        words,
        cwd=project,
        env=there(project),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_wheel_claims_one_name_and_holds_all_that_the_packages_do(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "thirdshift",
        f"{'-'.join(wheel.stem.split('-')[:2])}.dist-info",
    }
    held = {name.removeprefix("thirdshift/") for name in names}
    wanted = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in SHIPPED
    }
    assert {Path(name).suffix for name in wanted} >= {".py", ".toml", ".html", ".css", ".j2"}
    assert wanted - held == set()
    assert "py.typed" in held


def test_a_source_distribution_holds_what_the_wheel_does(built: Path, wheel: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        sources = {member.name.partition("/src/")[2] for member in archive.getmembers() if member.isfile()}
    modules = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("thirdshift/")}
    assert modules - sources == set()


def test_the_entrypoints_of_prefect_yaml_load_where_the_wheel_is(installed: Path, project: Path) -> None:
    described = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    assert {one["entrypoint"] for one in described["deployments"]} == {"thirdshift.flows.night.night"}
    assert runs(project, installed / "python", "-c", LOADS).split() == ["night", "night"]


def test_the_installed_program_says_the_version_of_the_project(installed: Path, tmp_path: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    says = "from importlib.metadata import version; import thirdshift; print(version('thirdshift'), thirdshift.__file__)"
    told, _, file = runs(tmp_path, installed / "python", "-c", says).strip().partition(" ")
    assert told == version
    assert Path(file).is_relative_to(installed.parent), "not the checkout"


def test_a_plan_a_served_night_and_their_own_flow_run_in_a_project_with_folders_of_our_names(
    installed: Path, project: Path, prefect_api: None
) -> None:
    items = write_sums(project / "requests.parquet", 20)
    with emulated([cheap(latency_seconds=0.0)], items=items) as emulator:
        job = write_job(
            project, emulator, {"cheap": {"price": {"input": 1, "output": 1}}}, name=f"sums-{os.getpid()}"
        )
        assert "20 requests" in runs(project, installed / "thirdshift", "plan", "job.yaml")
        served = subprocess.Popen(
            [installed / "thirdshift", "serve", "job.yaml"],
            cwd=project, env=there(project), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert served.stderr is not None
            line = served.stderr.readline()
            assert "serving night/" in line, line + served.stderr.read()
            assert night_of(f"night/sums-{os.getpid()}") == "COMPLETED"
        finally:
            served.send_signal(signal.SIGTERM)
            assert served.wait(PATIENCE_SECONDS) == 0
            served.stderr.close()
    assert ask(job.with_name("warehouse.duckdb"), "select count(*) from results where error is null") == [
        (20,)
    ]
    assert "theirs: 321" in runs(project, installed / "python", "-m", "flows.mine")


def night_of(deployment: str) -> str:
    """How a night of a deployment ends, begun as the UI does."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run_from_deployment(client.read_deployment_by_name(deployment).id)
        last = time.monotonic() + PATIENCE_SECONDS
        while (state := client.read_flow_run(flow_run.id).state) is None or not state.is_final():
            assert time.monotonic() < last, state
            time.sleep(0.2)
    return str(state.type.value)


def test_an_image_gets_what_a_build_needs_and_nothing_else() -> None:
    """Of a checkout with keys, data and warehouses in it, a container builder is shown the sources alone."""
    first, *rest = [
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line
    ]
    assert first == "*"
    assert sorted(line[1:] for line in rest if line.startswith("!")) == sorted(copied_into_the_image())


def test_the_compose_file_starts_programs_that_an_installation_has() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    for service in compose["services"].values():
        program, *words = [*service.get("entrypoint", ["thirdshift"]), *service["command"]]
        asked = [Path(sys.executable).with_name(program), *(word for word in words if word != "job.yaml")]
        told = subprocess.run(
            [*asked, "--help"], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
        assert told.returncode == 0, told.stderr
