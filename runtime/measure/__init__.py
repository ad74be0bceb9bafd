"""Bench records: measured here or on boards, emulated, estimated.
Of runtime/ it imports the model files, boards and the machine; nothing that shows records to people."""
