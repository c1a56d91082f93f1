"""The REST API: FastAPI routes under /v1. Reads the store and run directories; commands go into run directories."""
