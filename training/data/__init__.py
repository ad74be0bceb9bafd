"""Data sets: read, augmented, fed to a network as batches. Needs no torch but for `feed` and downloads.
Of training/ it imports the run's settings and processes, nothing that knows networks."""
