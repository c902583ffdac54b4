"""Data sets on a disk: readers that yield conversations, the check before a run, batches as a function of the step."""
