"""What goes into a step and what comes out, on the host."""
