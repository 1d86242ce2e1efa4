"""What identifies one run and what is fixed about it."""
