#!/bin/sh
# Polars 2.1, pyarrow 26.0.1, s3fs 2026.9: where the job that writes an object raises half way, what was sent becomes the object,
# in the place of yesterday's. Guess: an upload that did not end well is aborted, as obstore and pyarrow's write_dataset do it.
# Polars' sink_parquet raises, and most times leaves a whole Parquet file of a part of the rows (a race: 100,000 to 900,000 of
# 1,000,000), as pyarrow's ParquetWriter does in its `with`; s3fs leaves what was written. No reader sees an error. Ours writes
# here, sends whole files, and a manifest last (warehouse/exchange/publish.py: _send).
# Exits 1 when that is so no more (or the packages cannot be had).
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "polars==2.1.0" "pyarrow==26.0.1" "s3fs==2026.9.0" "obstore==0.12.1" "moto[server]==5.2.5"
export AWS_ACCESS_KEY_ID=k AWS_SECRET_ACCESS_KEY=s AWS_DEFAULT_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true
"$place/venv/bin/python" - 2>"$place/log" <<'PY' || { tail -5 "$place/log"; exit 1; }
import obstore
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
import s3fs
from moto.server import ThreadedMotoServer

moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
moto.start()
url = f"http://127.0.0.1:{moto.get_host_and_port()[1]}"
s3 = s3fs.S3FileSystem(endpoint_url=url)
s3.mkdir("bucket")
arrow = pyarrow.fs.S3FileSystem(endpoint_override=url)
store = obstore.store.S3Store("bucket", endpoint=url, client_options={"allow_http": True})
rows, YESTERDAY = pa.table({"answer": range(1000)}), b"yesterday's"


def died_in(opened, write):
    with opened as file:
        write(file)
        raise RuntimeError


def by_write_dataset():
    def batches():
        yield from rows.to_batches()
        raise RuntimeError

    half, again = pa.RecordBatchReader.from_batches(rows.schema, batches()), "overwrite_or_ignore"
    ds.write_dataset(half, "bucket", filesystem=arrow, format="parquet", basename_template="part{i}", existing_data_behavior=again)


def by_polars():
    answer = pl.when(pl.col("answer") == 900_000).then(pl.lit("none")).otherwise(pl.col("answer").cast(pl.String))
    numbers = pl.LazyFrame({"answer": range(1_000_000)}).with_columns(answer.cast(pl.Int64))  # "none" is none, and raises
    options = {"aws_endpoint_url": url, "aws_allow_http": "true"}
    numbers.sink_parquet("s3://bucket/part0", storage_options=options, row_group_size=10_000)


def left(write):
    s3.pipe_file("bucket/part0", YESTERDAY)
    try:
        write()
    except (RuntimeError, pl.exceptions.InvalidOperationError):
        found = s3.cat_file("bucket/part0")
        return pq.read_table(pa.BufferReader(found)).num_rows if found.startswith(b"PAR1") else found
    raise AssertionError("the job did not raise")


ways = {
    "ParquetWriter": lambda: died_in(pq.ParquetWriter("bucket/part0", rows.schema, filesystem=arrow), lambda file: file.write_table(rows)),
    "s3fs": lambda: died_in(s3.open("bucket/part0", "wb"), lambda file: file.write(b"half")),
    "obstore": lambda: died_in(obstore.open_writer(store, "part0"), lambda file: file.write(b"half")),
    "write_dataset": by_write_dataset,
}
found = {way: left(write) for way, write in ways.items()}
assert found == {"ParquetWriter": 1000, "s3fs": b"half", "obstore": YESTERDAY, "write_dataset": YESTERDAY}, found
of_polars = [left(by_polars) for _ in range(12)]
assert any(isinstance(rows, int) and 0 < rows < 1_000_000 for rows in of_polars), of_polars
print("as found:", found, "Polars, of 1,000,000 rows:", *of_polars)
PY
