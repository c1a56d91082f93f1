"""One job as a process: start its actors, run its loop, end them."""
