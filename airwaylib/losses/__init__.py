"""The General Union loss, the losses it is compared with, and their class-wise gradient ratios."""
