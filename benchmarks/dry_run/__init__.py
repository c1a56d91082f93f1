"""The inputs of a large job, and the time until its plan."""
