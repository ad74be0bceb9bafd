"""Gradient rules, one class for each method behind the same two verbs (see `base`), and the hypernetworks of FSG.
Of training/ it imports the registry, binary layers and the scan; it knows nothing of runs and data."""
