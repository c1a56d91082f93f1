"""Shared parts of the benchmarks: the learner workload, a padded baseline, and the result file."""
