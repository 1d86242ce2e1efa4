"""Object stores, against an S3 on loopback: read, written, probed before anything is sent; faults in one sentence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from tests.support.nights import answer, ask, thirdshift, write_job, write_sums
from tests.support.servers import cheap, emulated
from thirdshift.warehouse.errors import InputError, StoreUnreachable
from thirdshift.warehouse.intake.intake import InputSpec, SqlSource, freeze
from thirdshift.warehouse.object_stores import Store, filesystem_of, probe

BUCKET = "lake"


@pytest.fixture(scope="module")
def endpoint_url() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def store(endpoint_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoint, region and keys are a profile's, as a data team has them."""
    import botocore.session

    config, credentials = tmp_path / "aws" / "config", tmp_path / "aws" / "credentials"
    config.parent.mkdir()
    config.write_text(f"[profile night]\nregion = eu-central-1\nendpoint_url = {endpoint_url}\n")
    credentials.write_text("[night]\naws_access_key_id = made\naws_secret_access_key = up\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_PROFILE", "night")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = botocore.session.Session(profile="night").create_client("s3")
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})


@pytest.fixture(autouse=True)
def _emptied(endpoint_url: str) -> Iterator[None]:
    import httpx

    yield
    httpx.post(f"{endpoint_url}/moto-api/reset")


def put(path: str, table: pa.Table) -> None:
    filesystem, place = filesystem_of(f"s3://{BUCKET}/{path}")
    with filesystem.open(place, "wb") as file:
        pq.write_table(table, file)


def names() -> list[str]:
    filesystem, place = filesystem_of(f"s3://{BUCKET}")
    return sorted(filesystem.find(place))


@pytest.mark.parametrize(
    "source",
    [
        "s3://lake/in/dt=1/a.parquet",
        "s3://lake/in",
        "s3://lake/in/*/*.parquet",
        "s3a://lake/in/dt=1/a.parquet",
        SqlSource("select * from 's3://lake/in/*/*.parquet'"),
        SqlSource("select * from read_parquet('s3://lake/in/dt=' || $ds || '/*.parquet')", bound={"ds": "1"}),
    ],
)
def test_rows_come_from_a_bucket_by_name_glob_folder_and_query(
    tmp_path: Path, source: str | SqlSource
) -> None:
    put("in/dt=1/a.parquet", pa.table({"request_id": ["1", "2"], "prompt": ["a", "b"]}))
    assert freeze(InputSpec(source, tmp_path), tmp_path / "run").rows == 2


def test_a_probe_leaves_nothing_and_says_in_a_sentence_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe(f"s3://{BUCKET}/answers/")
    probe(str(tmp_path / "not" / "there" / "yet"))
    assert names() == []
    assert not (tmp_path / "not").exists()
    with pytest.raises(StoreUnreachable, match="s3://nowhere/x: there is no such bucket"):
        probe("s3://nowhere/x")
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnreachable, match="cannot be written to"):
        probe(str(tmp_path / "file" / "x"))
    with monkeypatch.context() as changed:
        changed.setenv("AWS_PROFILE", "another")
        with pytest.raises(StoreUnreachable, match=r"profile \(another\) could not be found"):
            probe(f"s3://{BUCKET}/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnreachable, match=r"its endpoint does not answer \(http://127.0.0.1:9\)"):
        probe(f"s3://{BUCKET}/x")
    with pytest.raises(InputError, match="its endpoint does not answer"):
        freeze(InputSpec("s3://lake/in/*.parquet", tmp_path), tmp_path / "run")


def test_of_a_folder_all_is_read_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("dt=1/a", "dt=2/b", "_temporary/0/half", "dt=2/.b", "_old=1/c"):
        put(f"in/{place}.parquet", pa.table({"request_id": [place], "prompt": ["a"]}))
    assert freeze(InputSpec(f"s3://{BUCKET}/in/", tmp_path), tmp_path / "run").rows == 3
    with pytest.raises(InputError, match="nothing there matches"):
        freeze(InputSpec(f"s3://{BUCKET}/none/*.parquet", tmp_path), tmp_path / "none")
    for source in ("s3://nowhere/in/*.parquet", "s3://nowhere/in"):
        with pytest.raises(InputError, match="there is no such bucket"):
            freeze(InputSpec(source, tmp_path), tmp_path / "nowhere")

    listed = Store.ls

    def failing(self: Store, path: str, *rest: Any, **options: Any) -> Any:
        if "dt=2" in path:
            raise OSError("When listing objects: AWS Error SLOW_DOWN: reduce your request rate")
        return listed(self, path, *rest, **options)

    monkeypatch.setattr(Store, "ls", failing)
    for source in (f"s3://{BUCKET}/in/", f"s3://{BUCKET}/in/*/*.parquet"):
        with pytest.raises(InputError, match="cannot be listed"):
            freeze(InputSpec(source, tmp_path), tmp_path / "half")


class _Refusing(BaseHTTPRequestHandler):
    """A store that lets nobody in without a key."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET = do_HEAD = do_PUT  # noqa: N815 (as http.server calls them)

    def log_message(self, *_: object) -> None:
        pass


def test_without_credentials_it_is_said_how_to_give_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_PROFILE")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(StoreUnreachable, match="no credentials were found; set AWS_PROFILE"):
            probe(f"s3://{BUCKET}/x")
        monkeypatch.setenv("AWS_PROFILE", "night")
        with pytest.raises(StoreUnreachable, match="it refuses access with these credentials"):
            probe(f"s3://{BUCKET}/x")
        server.shutdown()


def test_a_night_publishes_to_a_bucket_and_one_that_cannot_spends_nothing(tmp_path: Path) -> None:
    items = write_sums(tmp_path / "requests.parquet", 20)
    with emulated([cheap()], items=items) as emulator:
        endpoints = {"cheap": {"price": {"input": 0.1, "output": 0.4}}}
        job = write_job(
            tmp_path, emulator, endpoints, output={"path": "s3://nowhere/answers", "when": "always"}
        )
        done = thirdshift("run", job, "--json")
        assert (done.returncode, emulator.totals()) == (2, {}), done.stderr
        assert done.stderr.strip() == "thirdshift: output s3://nowhere/answers: there is no such bucket"
        job = write_job(tmp_path, emulator, endpoints, output={"path": "s3://lake/answers", "when": "always"})
        done = thirdshift("run", job, "--run-id", "first", "--json")
    assert answer(done)["results"] == 20, done.stderr
    folder = "lake/answers/job=sums/run_id=first"
    assert names() == [f"{folder}/manifest.json", f"{folder}/part-00000.parquet"]
    assert ask(tmp_path / "warehouse.duckdb", "select status from runs") == [("done",)]
