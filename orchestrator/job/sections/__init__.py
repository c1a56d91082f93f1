"""The parts of the job file, a file for each subject; `orchestrator.job.spec` puts them together."""
