"""Read a job's run directory while it grows: metrics, samples, events, logs. Depends on files only."""
