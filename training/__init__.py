"""PyTorch side: binary layers, gradient rules, models, data and the training loop."""
