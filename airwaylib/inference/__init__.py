"""From a chest CT to its airway mask."""
