"""What the actors say to one another: frozen, typed messages, and nothing else."""
