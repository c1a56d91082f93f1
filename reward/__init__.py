"""The reward actor, the reward functions and their registry."""
