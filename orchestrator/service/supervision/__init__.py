"""Schedule jobs, run their drivers, and settle how they end."""
