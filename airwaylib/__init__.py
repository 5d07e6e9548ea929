"""airwaylib: class-wise gradient imbalance in airway segmentation (after Zheng et al., IEEE TMI 2021)."""
