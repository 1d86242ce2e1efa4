"""What has happened, appended; sealed into Parquet parts."""
