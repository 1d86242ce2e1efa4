"""The stages of one run, and opening one."""
