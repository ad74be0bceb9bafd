"""How torch's layers, functions and methods are read as nodes: a rule for each, which names all of its spellings.
It may import the graph, and torch where it is used."""
