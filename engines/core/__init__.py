"""What all engines share: attempts, failures, budget, limits, records."""
