"""How long a test waits for what must come: a hang is found all the same, and a busy machine is none."""

PATIENCE_SECONDS = 600.0
