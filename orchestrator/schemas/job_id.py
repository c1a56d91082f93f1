"""The form of a job's id, which is also the name of its run directory."""

JOB_ID = "[A-Za-z0-9_-]{1,64}"
"""Regular expression of a whole id."""
