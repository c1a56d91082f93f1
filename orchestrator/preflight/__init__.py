"""Checks before a job starts: model folder, questions, plan and estimates."""
