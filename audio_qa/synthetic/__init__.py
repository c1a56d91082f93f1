"""A benchmark that needs no download: questions about sound, music and speech clips synthesised from a seed."""
