"""airwaylib: WingsNet, the General Union loss, whose gradient it is, airway trees and their scores.

After Zheng et al., IEEE TMI 40(9):2452-2462, 2021. A name is loaded when it is first used, so that
`import airwaylib` takes no time:

>>> from airwaylib import WingsNet, general_union_loss, class_gradients, parse_tree, evaluate, segment
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "gradients.by_class": ["class_gradients"],
        "images.volume": ["read_ct", "write_volume"],
        "inference.segment": ["segment"],
        "losses.distance": ["relative_distance"],
        "losses.general_union": ["GeneralUnionLoss", "general_union_loss", "general_union_weight"],
        "metrics.scores": ["evaluate"],
        "networks.checkpoints": ["load_checkpoint"],
        "networks.wingsnet": ["WingsNet"],
        "trees.parse": ["parse_tree"],
    },
)
__all__ += ["__version__"]
