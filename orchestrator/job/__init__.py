"""The job specification: the model of a job file and what follows from it."""
