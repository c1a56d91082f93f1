"""Question files as others publish them, each format in a file; `reader.read_questions` reads them all."""
