"""Airway masks as trees: skeleton, segments, branches, files."""
