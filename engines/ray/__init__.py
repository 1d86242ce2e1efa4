"""Workers on a Ray cluster: actors that hold a vLLM process each. Ray runs in a process of its own, never in ours."""
