"""The job: its specification, the controller that runs it, and the command line around it."""
