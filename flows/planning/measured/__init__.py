"""What was measured of endpoints, in this run and before: answers and calls, latencies, speeds, silences."""
