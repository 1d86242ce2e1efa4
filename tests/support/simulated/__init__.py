"""A simulated world: virtual time, the emulated providers in process, a disk that forgets, and processes that are killed.

A seed decides everything. `night.play(seed)` plays one night from its first life to its last and returns what came of it;
`laws` says what must hold. docs/design/simulation.md tells what is inside and what is not.
"""
