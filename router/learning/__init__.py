"""What to observe next, and when observing more would not pay."""
