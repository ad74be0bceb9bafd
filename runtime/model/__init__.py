"""Exported model files: what they say of themselves, their operators, and running them.
Of runtime/ it imports the native library alone."""
