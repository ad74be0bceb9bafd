"""The commands of `fsg`, a module for each or for those that belong together: they parse, call and print.
They may import every room; what is heavy waits inside them, so that --help is quick."""
