"""All rules together, by the names of layers, and of functions and methods."""

from fsg.export.reading import arithmetic, layers, norms, shapes
from fsg.export.reading.rules import ENTRIES

BY_LAYER = {name: entry for entry in ENTRIES for name in entry.layers}
BY_NAME = {name: entry for entry in ENTRIES for name in entry.functions}

__all__ = ["BY_LAYER", "BY_NAME", "ENTRIES", "arithmetic", "layers", "norms", "shapes"]
