"""REST models and job states, shared by service and client."""
