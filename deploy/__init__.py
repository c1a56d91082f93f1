"""What deploys Earshot, and the module that writes the parts of it that follow from the code."""
