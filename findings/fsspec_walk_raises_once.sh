#!/bin/sh
# fsspec 2026.9.0: `walk`, `find` and `glob` leave out what they fail to list (on_error="omit"). Guess: on_error="raise" raises.
# It does for the folder that is asked for; to the folders below, walk does not hand it on. So where a store refuses one
# partition, or asks to slow down in mid-listing, the files of that partition are missing from the list without a word, also
# for who asked for an error. Our input lists object stores through fsspec, by a walk that raises at every depth
# (warehouse/object_stores.py).
# Exits 1 when that is so no more (or the package cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --no-compile fsspec==2026.9.0
cd "$place"
mkdir -p lake/day=1 lake/day=2
touch lake/day=1/a.parquet lake/day=2/b.parquet
"$place/venv/bin/python" - <<'PY'
import os

from fsspec.implementations.local import LocalFileSystem


class Store(LocalFileSystem):
    """A disk of which one folder cannot be listed, as a store answers that is asked too often."""

    refused = "day=2"

    def ls(self, path, detail=False, **options):
        if path.rstrip("/").endswith(self.refused):
            raise OSError("SlowDown: reduce your request rate")
        return super().ls(path, detail=detail, **options)


def names(found):
    return [os.path.basename(name) for name in found]


store, lake = Store(), os.path.abspath("lake")
below = names(store.find(lake, on_error="raise")), names(store.glob(f"{lake}/**/*.parquet", on_error="raise"))
walked = [files for _, _, files in store.walk(lake, on_error="raise")]
print("a folder below is refused, on_error='raise': find, glob, walk:", *below, walked)
Store.refused = "lake"
try:
    first = names(store.find(lake, on_error="raise"))
except OSError as error:
    first = str(error)
print("the first folder is refused:", first)
assert below == (["a.parquet"], ["a.parquet"]) and walked == [[], ["a.parquet"]]
assert first == "SlowDown: reduce your request rate"
PY
