"""Check a model's folder before anything is started: documents, headers of the weights, and whether they fit."""
