"""Which files, rewards and hosts a submitted job may name."""
