"""The journal of what has happened: appended line by line, sealed into Parquet parts."""
