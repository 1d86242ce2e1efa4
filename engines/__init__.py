"""Talking to models: local vLLM workers, real-time APIs, provider Batch APIs, all behind one interface of four verbs."""
