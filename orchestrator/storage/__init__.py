"""Storage of runs at URLs: a run works on a local directory, and is copied to where every node finds it."""
