"""Runs and measures exported models, here and on boards; needs neither PyTorch nor TensorFlow. Imports fsg alone.
`delegate_path` is where programs of one's own find the library that gives LiteRT the binary operators."""

from fsg.runtime.library import active_kernels, delegate_path, possible_kernels

__all__ = ["active_kernels", "delegate_path", "possible_kernels"]
