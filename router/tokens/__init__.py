"""How many tokens a request takes and an answer will."""
