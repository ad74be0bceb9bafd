"""fsg: train binary neural networks in PyTorch and run them bitwise on ARM boards."""

__version__ = "0.1.0"


class FsgError(Exception):
    """A problem the user can solve; the message is one line: what, where and the remedy."""
