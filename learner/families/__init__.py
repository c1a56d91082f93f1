"""Model families: what the learner must know of each architecture, and nothing else of it anywhere."""
