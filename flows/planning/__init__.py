"""From frozen input and past runs to a plan and its state."""
