"""Scores of airway masks under named conventions, by case, with intervals."""
