"""WingsNet, the networks it is compared with, and their checkpoints."""
