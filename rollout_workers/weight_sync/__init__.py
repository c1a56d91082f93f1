"""How new weights get from the learner to the workers: one interface, a file for each carrier."""
