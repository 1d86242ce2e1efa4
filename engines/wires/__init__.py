"""Bodies out, replies in; no socket."""
