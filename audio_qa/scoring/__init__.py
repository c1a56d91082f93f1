"""Scores by each benchmark's official rule and by Earshot's stricter rule, with confidence intervals."""
