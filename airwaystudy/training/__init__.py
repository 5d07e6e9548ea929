"""Training runs: settings, steps, resuming, devices."""
