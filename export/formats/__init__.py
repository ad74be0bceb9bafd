"""One file or folder for each format that a BinaryGraph is written in.
Of export/ it imports the graph and its passes; a format knows nothing of runs."""
