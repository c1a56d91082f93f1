"""Model families: everything architecture-specific in the learner."""
