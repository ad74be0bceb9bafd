"""Boards: what is known of them, how they are reached, and what runs there.
Of runtime/ it imports the native library alone."""
