"""Runs and measures exported models; needs neither PyTorch nor TensorFlow."""
