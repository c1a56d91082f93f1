"""The memory that a job needs, computed from its specification and the sizes of its model, without loading it."""
