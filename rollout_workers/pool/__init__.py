"""The elastic pool of rollout workers."""
