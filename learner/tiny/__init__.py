"""The tiny model: a Qwen2-Audio of a few million parameters, created and trained from a seed on the user's machine."""
