"""The service: takes jobs over REST, queues them, runs them on a Ray cluster, and survives its own death."""
