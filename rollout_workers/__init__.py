"""A vLLM engine as a Ray actor, and the pool of them."""
