"""A look at a training step's gradients: the loss's ratio, and what each layer makes of it."""

import torch
from torch import Tensor, nn

from airwaylib.gradient_measures import Regions, measure
from airwaylib.gradient_theory import measured_ratio
from airwaylib.gradients import class_gradients
from airwaylib.supervision import Loss, as_group_logits


def probe(
    network: nn.Module, loss: Loss, batch: dict[str, Tensor], weight: Tensor | None, encoder_weight: float
) -> list[dict[str, float | str]]:
    """Rows of probes.csv for a batch's first crop: a layer each, forward order. Costs about two training steps.

    Returns
    -------
    list of dict
        `layer`, `erosion`, `dilation`, `layer_ratio` (class-wise, of the layer), see `gradient_measures`; `ratio`, of
        the loss: mean |dL/dp| on the airway over that on the background, at the prediction; `index`: 1 - loss. Empty if
        the crop lacks one of the classes.
    """
    image, label = batch["image"][:1], batch["label"][:1]
    weight = None if weight is None else weight[:1]
    if not (label > 0.5).any() or (label > 0.5).all():
        return []
    regions = Regions.around(label[0, 0].cpu().numpy() > 0.5)
    state = loss_state(network, loss, image, label, weight)
    rows = []
    for layer, gradients in class_gradients(network, loss, image, label, weight, encoder_weight=encoder_weight):
        measures = measure(gradients, regions)
        about = {"layer": layer, "layer_ratio": measures["ratio"]} | state
        rows.append(about | {name: measures[name] for name in ("erosion", "dilation")})
    return rows[::-1]


def loss_state(network: nn.Module, loss: Loss, image: Tensor, label: Tensor, weight: Tensor | None) -> dict[str, float]:
    """The loss at the network's prediction for a crop: its gradient `ratio`, and its `index`, 1 - loss."""
    with torch.no_grad():
        probability = torch.sigmoid(as_group_logits(network(image)).decoder.float())
        index = 1 - loss(probability, label, weight).item()
    return {"ratio": measured_ratio(loss, probability, label, weight), "index": index}
