"""Many hosts: who they are, asking them all, keeping what they said, and what only shows between them."""
