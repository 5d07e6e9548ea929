"""Split gradients by class, measure each layer, and predict erosion."""
