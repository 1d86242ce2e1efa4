"""What the Python API and the command line have in common: one function for each thing that can be asked of Thirdshift."""
