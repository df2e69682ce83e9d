"""What knows nothing of steps: sizes, names, text, this host, and the form of stored JSON."""
