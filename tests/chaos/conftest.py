"""The jobs of the integration tests."""

from integration.conftest import job_file

__all__ = ["job_file"]
