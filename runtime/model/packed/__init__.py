"""The packed-sign file, model.fsg, as docs/packed.md specifies it: read, checked and computed with NumPy alone.
Of runtime/ it imports what its neighbours in model/ do."""
