"""The policy: loading, packing, attention, head, audio, weights."""
