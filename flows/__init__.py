"""The order of events: the job file, the night as a Prefect flow, the command line, and what people see."""
