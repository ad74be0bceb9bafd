"""What people see of bench records and runs: words, tables, one HTML page.
It may import all of runtime/; nothing but the command line imports it."""
