"""One module a command: read records, call the methods, write records."""
