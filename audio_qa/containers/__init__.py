"""Checks of sound files' containers against their size: what a header says is not always what is there."""
