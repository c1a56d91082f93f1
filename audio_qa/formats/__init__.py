"""Published formats of question files, one per module; `reader.read_questions` reads them all."""
