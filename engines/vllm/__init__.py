"""Local vLLM workers."""
