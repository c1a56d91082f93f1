"""Deployment of Earshot, and the modules that generate those of its files that depend on the code."""
