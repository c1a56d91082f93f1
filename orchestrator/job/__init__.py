"""The job specification: the model of a job file, and quantities derived from it."""
