"""The General Union loss, the losses it is compared with, and their class-wise gradient ratios.

Every loss keeps one contract: loss(probability, target, weight=None, **parameters) -> scalar tensor.

- `probability`: (B, 1, D, H, W) or any shape, in [0, 1], after the sigmoid. Under automatic mixed precision take the
  sigmoid of the float32 logits: a float16 probability is 1 from a logit of about 8 on, where the sigmoid's slope is 0.
- `target`: same shape, 1 on the airway and 0 elsewhere, any dtype.
- `weight`: a map of `general_union_weight` that broadcasts to that shape, or None for 1 everywhere. Only the losses in
  `WEIGHTED` use it. All others ignore it, so that one training loop can pass every loss the same three tensors.

Sums run over the whole batch tensor: one ratio a batch. They are float32 (float64 if `probability` is), also under
autocast and for half-precision inputs. Values are not inspected, since that would halt the device at every step:
logits in place of probabilities, or a 0/255 target, go unnoticed here.

Symbols of the formulas: p probability, g target, w weight, q the probability given to a voxel's true class. R is
|dL/dp| at a foreground voxel (p_f, weight w) over |dL/dp| at a background voxel (p_b); index = 1 - loss.
"""
