"""The study as a plan: presets, runs, one command to reproduce them."""
