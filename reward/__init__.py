"""Rewards of completions: the reward actor, the reward functions and their registry."""
