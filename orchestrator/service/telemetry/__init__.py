"""What a job's run directory tells while it grows: metrics, samples, events, logs. Reads files and nothing else."""
