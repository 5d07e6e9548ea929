"""How far a network's airways of a patient's CT are from a reference mask: found, outside it, and leaked; and the time.

    python benchmarks/real_ct.py CT MASK [--weights CHECKPOINT] [--picture OUT.png]

Tree length detected (TD) is by the largest component, convention `atm22`: of the skeleton of the mask with its holes
filled, which masks by region growing have. Volume outside counts
from two voxels off the mask: what lies there may be airway that the mask lacks. Of that, leaks are the part thicker
than 3 mm in radius (an opening by a ball).
"""

import argparse
import time
from pathlib import Path

import edt
import numpy as np
from scipy import ndimage

from airwaylib.images.volume import Volume, read_ct, read_mask
from airwaylib.inference import DEFAULT_WEIGHTS
from airwaylib.inference.segment import segment
from airwaylib.metrics.scores import evaluate, largest_component
from airwaylib.networks.checkpoints import load_checkpoint

NEAR = 2  # voxels
THICK = 3.0  # mm


def outside(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The prediction more than NEAR voxels off the reference."""
    return prediction & ~ndimage.binary_dilation(reference, ndimage.generate_binary_structure(3, 3), NEAR)


def thick(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """The part of a mask that balls of THICK mm within it cover."""
    cores = edt.edt(mask, anisotropy=spacing[::-1], black_border=True) >= THICK
    return mask & (edt.edt(~cores, anisotropy=spacing[::-1]) < THICK) if cores.any() else cores


def measure(prediction: Volume, reference: np.ndarray) -> dict[str, float]:
    """TD, BD and precision in percent (convention `atm22`), volumes in ml."""
    off = outside(largest_component(prediction.array), reference)
    scores = evaluate(prediction.array, reference, convention="atm22")
    return {
        **{name: scores[name] for name in ("td", "bd", "precision")},
        "volume_ml": prediction.array.sum() * prediction.voxel_ml,
        "outside_ml": off.sum() * prediction.voxel_ml,
        "leak_ml": thick(off, prediction.spacing).sum() * prediction.voxel_ml,
    }


def draw(ct: Volume, prediction: np.ndarray, reference: np.ndarray, path: Path) -> None:
    """Slices with outlines (reference orange, prediction blue), and both masks seen from the front."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    points = np.argwhere(reference | prediction)
    figure, panels = plt.subplots(2, 4, figsize=(26, 13))
    height = ct.spacing[2] / ct.spacing[0]
    for panel, share in zip(panels[0], (0.2, 0.4, 0.55, 0.7), strict=True):
        z = int(points[:, 0].min() + share * np.ptp(points[:, 0]))
        panel.imshow(ct.array[z], cmap="gray", vmin=-1000, vmax=300)
        for mask, colour in ((reference, "#E69F00"), (prediction, "#56B4E9")):
            panel.contour(mask[z], [0.5], colors=colour, linewidths=0.7)
        panel.set_title(f"slice {z}")
    middle = int(np.median(np.argwhere(reference)[:, 1]))
    for panel, y in zip(panels[1, :2], (middle - 8, middle + 12), strict=True):
        panel.imshow(ct.array[::-1, y], cmap="gray", vmin=-1000, vmax=300, aspect=height)
        for mask, colour in ((reference, "#E69F00"), (prediction, "#56B4E9")):
            panel.contour(mask[::-1, y], [0.5], colors=colour, linewidths=0.7)
    for panel, axis in zip(panels[1, 2:], (1, 2), strict=True):
        seen = np.stack([reference.max(axis), np.zeros_like(reference.max(axis)), prediction.max(axis)], 2)
        panel.imshow(seen[::-1].astype(float), aspect=height)
        panel.set_title("red: reference only, blue: prediction only, magenta: both")
    for panel in panels.flat:
        panel.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=55)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ct", type=Path)
    parser.add_argument("mask", type=Path)
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--probability", type=float, help="default: the checkpoint's")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    ct = read_ct(args.ct)
    reference = read_mask(args.mask, ct).array
    network, info = load_checkpoint(args.weights)
    start = time.perf_counter()
    prediction = segment(ct, network, info, args.probability, device="cpu")
    seconds = time.perf_counter() - start
    numbers = measure(prediction, reference) | {"seconds": seconds}
    print(f"{args.ct.name}: " + ", ".join(f"{name} {value:.1f}" for name, value in numbers.items()))
    if args.picture:
        draw(ct, prediction.array, reference, args.picture)


if __name__ == "__main__":
    main()
