"""Gradients split by class: whose they are at each layer, how to measure it, and what theory predicts."""
