"""One rollout worker: the actor and its handle."""
