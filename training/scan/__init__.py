"""The selective scan of Mamba: a plain one that says what is right, and fast ones for CPUs (native/) and CUDA.
It imports nothing of training/ but the registry."""
