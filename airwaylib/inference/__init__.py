"""Segment the airway tree of a chest CT."""

from pathlib import Path

DEFAULT_WEIGHTS = Path(__file__).parent / "weights/wingsnet-phantom.safetensors"
"""The checkpoint that comes with the package, trained on synthetic CT; weights/README.md is its card."""
