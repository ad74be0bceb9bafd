"""Trains binary networks in PyTorch. The modules of this folder are a run, from its settings to its results: start at
loop.py. May import runtime/ and fsg; docs/architecture.md has the table of who may import whom."""
