"""Weight transfer from the learner to the workers: one interface, and a file for each carrier."""
