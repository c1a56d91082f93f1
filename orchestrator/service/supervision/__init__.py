"""Schedule jobs, run their drivers, and decide how they end."""
