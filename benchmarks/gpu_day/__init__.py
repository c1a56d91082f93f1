"""The check of a machine with a GPU: ten minutes, one part after the other, each in its own process."""
