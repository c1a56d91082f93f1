"""Other projects' trainers, each measured in a separate environment; none is a dependency of this project."""
