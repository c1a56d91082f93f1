"""Other projects' trainers, each measured in an environment of its own: none is a dependency of this project."""
