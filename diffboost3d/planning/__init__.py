"""What to train on a machine, and what it costs: rules, an account of memory, short trials; nothing of files or configuration."""
