"""The losses, one to a file. Each is a function of N tokens of any number of completions, and sums over them.

Dividing by the whole batch's counts happens before, in the weights (`aggregate`), so a loss summed over micro-batches
and ranks is the loss of the batch, however it was cut.
"""
