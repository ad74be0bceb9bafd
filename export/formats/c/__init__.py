"""BinaryGraph -> C99 that needs nothing but a compiler. Imports what its neighbours in formats/ do, and of tflite/ the
lowering to operators in [N, H, W, C]."""
