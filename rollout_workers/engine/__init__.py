"""The vLLM engine of a worker and how it receives weights."""
