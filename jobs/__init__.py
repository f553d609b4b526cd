"""The commands: what a user runs, and what a cluster runs for them."""
