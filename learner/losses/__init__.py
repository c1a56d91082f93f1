"""The losses, one per file. Each is a function of N tokens from any number of completions, and sums over them.

The division by the whole batch's counts is part of the token weights (`aggregate`), so a loss summed over micro-batches
and ranks is the loss of the batch, however it is split.
"""
