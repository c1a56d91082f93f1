"""Progress of a run on the terminal, plots and reports."""
