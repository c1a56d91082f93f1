"""Publish the learner's weights to rollout workers."""
