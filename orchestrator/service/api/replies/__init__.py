"""Forms of responses: byte ranges, validators, HEAD and OPTIONS, problem pages, the reference."""
