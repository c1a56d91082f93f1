"""The REST API: FastAPI routes under /v1. Reads the store and run directories; tells jobs by writing to theirs."""
