"""All figures, in one style."""
