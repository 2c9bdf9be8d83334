"""Running the sh program somewhere and getting its output: the one thing that differs between hosts."""
