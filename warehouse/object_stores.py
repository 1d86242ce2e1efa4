"""Object stores by pyarrow's file systems, as fsspec's: S3 and what speaks like it, Google's and Azure's.

For S3 the endpoint, region and credentials are those of AWS's own tools: `AWS_ENDPOINT_URL`, `AWS_PROFILE`, the files under
`~/.aws`, a role. Other stores find theirs as pyarrow does.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs as arrow
from fsspec.implementations.arrow import ArrowFSWrapper

from thirdshift.warehouse.errors import StoreUnreachable, first_line

SCHEMES = {
    "s3": ("s3", "s3a"),
    "s3a": ("s3", "s3a"),
    "gs": ("gs", "gcs"),
    "gcs": ("gs", "gcs"),
    "abfs": ("abfs", "abfss"),
    "abfss": ("abfs", "abfss"),
}
"""The stores that pyarrow reaches, each with the names by which people call it."""
CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 60.0
TRIES = 3
PATIENT_TRIES = 6
"""Where a night's results are at stake. The store's client waits longer after each, up to 20 s."""

MEANINGS = (
    ("NO_SUCH_BUCKET", "there is no such bucket"),
    ("NoSuchBucket", "there is no such bucket"),
    ("bucket does not exist", "there is no such bucket"),
    ("NETWORK_CONNECTION", "its endpoint does not answer"),
    ("Couldn't connect", "its endpoint does not answer"),
    ("curlCode", "its endpoint does not answer"),
    ("INVALID_ACCESS_KEY_ID", "it does not know this access key"),
    ("InvalidAccessKeyId", "it does not know this access key"),
    ("SIGNATURE_DOES_NOT_MATCH", "the secret key is not that of the access key"),
    ("EXPIRED", "the credentials have expired"),
    ("ExpiredToken", "the credentials have expired"),
    ("ACCESS_DENIED", "it refuses access with these credentials"),
    ("HTTP status 403", "it refuses access with these credentials"),
    ("HTTP response code 403", "it refuses access with these credentials"),
)
"""Words of pyarrow's errors, to what they mean; the first that is there."""


class Store(ArrowFSWrapper):  # type: ignore[misc] # fsspec ships no types
    """A pyarrow file system as fsspec has it; paths with and without the scheme."""

    cachable = False

    def __init__(self, filesystem: arrow.FileSystem, schemes: tuple[str, ...]) -> None:
        super().__init__(filesystem)
        self._schemes = schemes
        self.root_marker = ""

    @property
    def protocol(self) -> tuple[str, ...]:
        return self._schemes

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.partition("://")[2].strip("/") if "://" in path else path.strip("/")

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = "raise",
        **options: Any,
    ) -> Any:
        """As fsspec's, which leaves out without a word what it fails to list, and hands `on_error` to no folder below the
        first (2026.9.0). Raises OSError."""
        return super().walk(path, maxdepth, topdown, on_error, **options)

    def glob(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:
        """As fsspec's, by `walk`; nothing where there is no such folder. Raises OSError: one cannot be listed."""
        try:
            return super().glob(path, maxdepth, **options)
        except FileNotFoundError:
            return []

    def unstrip_protocol(self, name: str) -> str:
        return name if "://" in name else f"{self._schemes[0]}://{name}"


def filesystem_of(uri: str, *, tries: int = TRIES) -> tuple[Any, str]:
    """Return fsspec's file system for a URI, and the path in it. `tries`: of a call that a store of S3 fails.

    Raises StoreUnreachable; ImportError for a scheme that needs a library which is not there.
    """
    scheme = uri.partition("://")[0]
    if scheme not in SCHEMES:
        filesystem, path = fsspec.core.url_to_fs(uri)
        return filesystem, str(path)
    with explained(uri):
        made = _s3(tries) if scheme in SCHEMES["s3"] else _by_uri(uri)
    return Store(made, SCHEMES[scheme]), uri.partition("://")[2].strip("/")


def check_bucket(filesystem: Any, path: str) -> None:
    """Raises OSError where the bucket of a path is not there or cannot be looked at: to fsspec such a one is empty."""
    if isinstance(filesystem, Store):
        bucket = path.partition("/")[0]
        if filesystem.fs.get_file_info(bucket).type is arrow.FileType.NotFound:
            raise FileNotFoundError("bucket does not exist")


def filesystems_in(sql: str) -> Iterator[Any]:
    """A file system for each kind of store that a query's text names."""
    schemes = {SCHEMES[scheme]: f"{scheme}://" for scheme in SCHEMES if f"{scheme}://" in sql}
    for start in schemes.values():
        uri = sql[sql.index(start) :].partition("'")[0]
        yield filesystem_of(uri)[0]


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Raises StoreUnreachable, saying what is wrong in a few words, for what a store's client raises."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise StoreUnreachable(f"{uri}: {meaning(error)}") from error


def meaning(error: BaseException) -> str:
    """What a store's error means, and what to look at."""
    text = str(error)
    sentence = next((words for word, words in MEANINGS if word in text), None)
    if sentence is None:
        return first_line(error)
    if "endpoint" in sentence and (endpoint := _endpoint_url(_session())):
        sentence = f"{sentence} ({endpoint})"
    if "refuses" in sentence and not _has_credentials():
        sentence = (
            "no credentials were found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(other stores: docs/object-stores.md)"
        )
    return sentence


def probe(target: str) -> None:
    """Write an object, or a file, under `target` and remove it. Raises StoreUnreachable where that cannot be done."""
    name = f".thirdshift-probe-{secrets.token_hex(4)}"
    if "://" not in target:
        _probe_folder(Path(target))
        return
    filesystem, path = filesystem_of(target)
    place = f"{path.rstrip('/')}/{name}"
    with explained(target):
        filesystem.pipe_file(place, b"")
        filesystem.rm_file(place)


def _probe_folder(folder: Path) -> None:
    """In the nearest folder that is there: the rest is made when it is needed."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".thirdshift-probe-"):
            return
    except OSError as error:
        raise StoreUnreachable(
            f"{folder}: {there} cannot be written to ({os.strerror(error.errno or 0)})"
        ) from error


# --- S3 --------------------------------------------------------------------------------------------------------------


def _s3(tries: int) -> arrow.FileSystem:
    session = _session()
    credentials = session.get_credentials()
    known = credentials.get_frozen_credentials() if credentials is not None else None
    options: dict[str, Any] = {"anonymous": True}
    if known is not None:
        options = {
            "access_key": known.access_key,
            "secret_key": known.secret_key,
            "session_token": known.token,
        }
    return arrow.S3FileSystem(
        **options,
        region=session.get_config_variable("region") or "us-east-1",
        endpoint_override=_endpoint_url(session),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=arrow.AwsStandardS3RetryStrategy(max_attempts=tries),
    )


def _session() -> Any:
    """AWS's own way to credentials, region and endpoint. Raises OSError for a profile that there is not."""
    import botocore.exceptions
    import botocore.session

    try:
        session = botocore.session.Session()
        session.get_scoped_config()
    except botocore.exceptions.BotoCoreError as error:
        raise OSError(str(error)) from error
    return session


def _has_credentials() -> bool:
    return _session().get_credentials() is not None


def _endpoint_url(session: Any) -> str | None:
    """The endpoint of S3 where it is not Amazon's: a variable's, else the profile's."""
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    profile = session.get_scoped_config()
    stated: Iterable[Callable[[], Any]] = (
        lambda: os.environ.get("AWS_ENDPOINT_URL_S3"),
        lambda: os.environ.get("AWS_ENDPOINT_URL"),
        lambda: _of_service(session, profile),
        lambda: profile.get("endpoint_url"),
    )
    return next((str(url) for find in stated if (url := find())), None)


def _of_service(session: Any, profile: dict[str, Any]) -> str | None:
    services = session.full_config.get("services", {}).get(profile.get("services"), {})
    url = services.get("s3", {}).get("endpoint_url") if isinstance(services.get("s3"), dict) else None
    return None if url is None else str(url)


# --- other stores ----------------------------------------------------------------------------------------------------


def _by_uri(uri: str) -> arrow.FileSystem:
    scheme, _, rest = uri.partition("://")
    named = f"{'gs' if scheme == 'gcs' else scheme}://{rest.partition('*')[0].rstrip('/') or rest}"
    return arrow.FileSystem.from_uri(named)[0]
