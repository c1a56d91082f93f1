"""A Qwen2-Audio of a few million parameters, made from a seed on the user's machine and taught to hear there."""
