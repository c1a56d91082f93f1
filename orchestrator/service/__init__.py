"""The service: queues jobs, runs them on Ray, and shows them over REST. Imports neither torch, vLLM nor DeepSpeed."""
