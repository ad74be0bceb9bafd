"""What is done with many runs: sweeps, comparisons, and what a training step costs.
It may import all of training/; nothing imports it but the command line."""
