"""Read question files: JSON, JSON lines, tables, Hugging Face datasets, and files at URLs, with their clips."""
