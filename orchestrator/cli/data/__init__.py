"""Commands that check and filter questions."""
