"""A campaign of faults against whole runs: `python -m tests.pretraining.faults --rounds 200`.

Runs of a tiny network are killed, stopped, starved of disk and robbed of checkpoints at random, and
started again by the same command; each must end with the weights of the run that nothing disturbed.
"""
