"""Write a job file for the data at hand."""
