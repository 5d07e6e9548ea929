"""Training of one run on Lightning Fabric: resumable, and on a CPU bit for bit the same after a kill.

Loss of a step = loss(decoder group) + encoder_weight * loss(encoder group), as in Zheng et al., IEEE TMI 2021.
"""

import math
import pickle
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from airwaylib import study
from airwaylib.config import TrainConfig
from airwaylib.errors import InputError
from airwaylib.evaluation import score_case, true_tree
from airwaylib.files import atomic_path
from airwaylib.inference import predict_probability, segment
from airwaylib.losses import general_union_weight, loss_by_name
from airwaylib.metrics import evaluate
from airwaylib.networks import CheckpointInfo, build_network, load_checkpoint, save_checkpoint
from airwaylib.patches import Crops, Store
from airwaylib.prepare import one_file
from airwaylib.volume import read_ct, read_mask, write_volume

VALIDATED = ("td", "bd", "precision", "dsc", "tpr")  # scores of the validation cases in metrics.csv
DEEP_WEIGHTS = (0.5, 0.25)  # of the coarser decoder levels under "deep" supervision, finest first (our choice)


@dataclass
class Progress:
    """How far a run has come: one row of metrics.csv an epoch, and the seconds they took."""

    rows: list[dict[str, float]]
    seconds: float = 0.0

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.rows)


def learning_rate_at(config: TrainConfig, progress: float) -> float:
    """Learning rate at `progress` (0..1) through the training: cosine with 5 % linear warm-up, or steps by epoch."""
    if config.schedule == "steps":
        return config.learning_rate * 0.1 ** sum(progress * config.epochs >= end for end in config.milestones)
    warm_up = min(1.0, progress / 0.05 + 0.02)
    return config.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * progress))


class Run:
    """One training run: network, optimiser and data of a `TrainConfig`, and where it stands."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.loss = loss_by_name(config.loss, **({} if config.alpha is None else {"alpha": config.alpha}))
        self.weight_alpha = {} if config.alpha is None else {"alpha": config.alpha}
        stores = [Store.open(config.prepared(case)) for case in config.train_cases]
        drawing = config.model_dump(include={"crop", "rotation", "label_threshold", "seed", "augment"})
        self.crops = Crops(stores, per_case=config.crops_per_case, **drawing)
        self.validation = [Store.open(config.prepared(case)) for case in config.validation_cases]
        torch.manual_seed(config.seed)
        network = build_network(config.network, width=config.width, supervision=config.supervision)
        self.fabric = make_fabric(config)
        self.network, self.optimizer = self.fabric.setup(network, make_optimizer(config, network))
        self.loader = self.fabric.setup_dataloaders(
            DataLoader(self.crops, config.batch_size, num_workers=config.workers, drop_last=False)
        )
        self.progress = Progress([])

    @property
    def plain_network(self) -> nn.Module:
        """The network without Fabric's wrapper."""
        return self.network.module

    def losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Loss of the prediction (and of deep supervision's coarser heads) and of the encoder group (0 without one)."""
        label = batch["label"]
        weight = None
        if self.config.loss == "general_union":
            weight = general_union_weight(batch["distance"], label, **self.weight_alpha)
        logits = self.network(batch["image"])
        decoder, *coarser = (
            self.loss(torch.sigmoid(output.float()), label, weight) for output in (logits.decoder, *logits.deep)
        )
        decoder = decoder + sum(w * loss for w, loss in zip(DEEP_WEIGHTS, coarser, strict=False))
        if logits.encoder is None:
            return decoder, torch.zeros_like(decoder)
        return decoder, self.loss(torch.sigmoid(logits.encoder.float()), label, weight)

    def train_epoch(self) -> dict[str, float]:
        """One pass over the crops; the epoch's row of metrics.csv without the validation."""
        config, epoch = self.config, self.progress.epoch
        self.network.train()
        self.crops.epoch = epoch
        sums, rate = np.zeros(2), 0.0
        bar = tqdm(self.loader, desc=f"epoch {epoch + 1}/{config.epochs}", unit="step", leave=False, disable=None)
        for step, batch in enumerate(bar):
            rate = learning_rate_at(config, (epoch + step / len(self.loader)) / config.epochs)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(int(np.random.default_rng([config.seed, epoch, step]).integers(2**62)))  # channel dropout
            decoder, encoder = self.losses(batch)
            total = decoder + config.encoder_weight * encoder
            if not torch.isfinite(total):
                raise InputError(f"{config.folder}: the loss is {total:g} in epoch {epoch + 1}; lower learning_rate")
            self.fabric.backward(total)
            if config.gradient_clip is not None:
                limits = {"max_norm": config.gradient_clip, "error_if_nonfinite": False}  # the loss will tell
                self.fabric.clip_gradients(self.network, self.optimizer, **limits)
            self.optimizer.step()
            self.optimizer.zero_grad()
            sums += decoder.item(), encoder.item()
        decoder, encoder = (sums / len(self.loader)).tolist()
        return {
            "epoch": epoch + 1,
            "learning_rate": rate,
            "loss": decoder + config.encoder_weight * encoder,
            "loss_decoder": decoder,
            "loss_encoder": encoder,
        }

    def validate(self) -> dict[str, float]:
        """Mean scores (percent, convention `paper`) of the validation cases, by sliding window over the lungs' box."""
        scores = []
        for store in self.validation:
            image = store.image[:]
            probability = predict_probability(
                self.plain_network,
                image,
                np.ones(image.shape, bool),
                window=self.config.crop,
                device=str(self.fabric.device),
                progress=False,
            )
            scores.append(evaluate(probability >= 0.5, store.label[:] > 0))
        return {name: float(score) for name, score in pd.DataFrame(scores)[list(VALIDATED)].mean().items()}

    def save(self) -> None:
        """Checkpoint, then the state to resume from; metrics.csv last: it never tells of an epoch that is lost."""
        folder = self.config.folder
        save_checkpoint(folder / "checkpoint.safetensors", self.plain_network, self.info)
        state = {
            "network": self.plain_network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        with atomic_path(folder / "resume.pt") as temporary:
            torch.save(state, temporary)
        self.write_metrics()

    def write_metrics(self) -> None:
        """metrics.csv: one row an epoch, nothing in it that differs between two equal runs (no clock)."""
        with atomic_path(self.config.folder / "metrics.csv") as temporary:
            pd.DataFrame(self.progress.rows).to_csv(temporary, index=False, float_format="%.6g")

    @property
    def info(self) -> CheckpointInfo:
        """What the checkpoint says of itself."""
        config = self.config
        parameters = {"width": config.width, "supervision": config.supervision}
        return CheckpointInfo(config.network, parameters, config.crop, config.spacing)

    def resume(self) -> None:
        """Take up a run that was cut off, if there is one.

        Raises
        ------
        InputError
            The folder holds a run of another configuration, or a damaged state.
        """
        folder, config = self.config.folder, self.config.model_dump()
        if not (folder / "config.json").exists():
            study.write_json(folder / "config.json", config)
        former = TrainConfig().model_dump() | study.read_json(folder / "config.json")  # settings unknown to older runs
        changed = sorted(k for k in config.keys() | former.keys() if config.get(k) != former.get(k))
        if changed:
            raise InputError(
                f"{folder}: holds a run with another {', '.join(changed)}; choose another run name or delete it"
            )
        if (folder / "resume.pt").exists():
            try:
                state = torch.load(folder / "resume.pt", map_location=self.fabric.device, weights_only=True)
            except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
                raise InputError(f"{folder / 'resume.pt'}: damaged, no state to resume from; delete the run") from error
            self.plain_network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
            self.write_metrics()


def make_fabric(config: TrainConfig) -> Fabric:
    """Fabric for the device asked for; bf16 autocast where "auto" finds a GPU that is fast at it."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' asked for, but no CUDA device is visible; use device auto or cpu")
    cuda = config.device != "cpu" and torch.cuda.is_available()
    precision = config.precision
    if precision == "auto":
        precision = "bf16-mixed" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return Fabric(accelerator="cuda" if cuda else "cpu", devices=1, precision=precision)


def make_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9 (the authors hint at SGD; the paper does not say)."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), config.learning_rate, momentum=0.9, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)


def train(config: TrainConfig) -> dict[str, Any]:
    """Train the run `config` describes, or finish it; returns the content of its summary.json.

    Writes results/<study>/runs/<run>/: config.json, metrics.csv (a row an epoch), TensorBoard events,
    checkpoint.safetensors, resume.pt, provenance.json, and summary.json last. A run with a summary is not trained
    again.

    Raises
    ------
    InputError
        Unknown names, cases without a store, another run in the folder, a folder that cannot be written.
    """
    run = Run(config)
    run.resume()
    summary = config.folder / "summary.json"
    if summary.exists():
        return study.read_json(summary)
    with SummaryWriter(str(config.folder / "tensorboard"), purge_step=run.progress.epoch + 1) as writer:
        while run.progress.epoch < config.epochs:
            started = time.monotonic()
            row = run.train_epoch()
            last = row["epoch"] == config.epochs
            if run.validation and (last or row["epoch"] % config.validate_every == 0):
                row |= run.validate()
            run.progress.rows.append(row)
            run.progress.seconds += time.monotonic() - started
            run.save()
            for name, value in row.items():
                writer.add_scalar(name, value, row["epoch"])
            print(report(run), flush=True)
    study.write_json(
        config.folder / "provenance.json",
        study.provenance(
            config,
            seed=config.seed,
            device=str(run.fabric.device),
            data=study.checksum(*map(config.prepared, config.train_cases)),
            seconds=round(run.progress.seconds, 1),
        ),
    )
    study.write_json(summary, summarise(run))
    return summarise(run)


def report(run: Run) -> str:
    """One line about the epoch just done, with the time left."""
    row, progress = run.progress.rows[-1], run.progress
    rate = progress.seconds / progress.epoch
    left = rate * (run.config.epochs - progress.epoch) / 60
    scores = "".join(f"  {name} {row[name]:.1f}" for name in ("td", "precision", "dsc") if name in row)
    done = f"epoch {row['epoch']}/{run.config.epochs}  loss {row['loss']:.4f}{scores}"
    return f"{done}  {rate:.1f} s/epoch, {left:.1f} min left"


def summarise(run: Run) -> dict[str, Any]:
    """The end of the run in a few numbers."""
    parameters = sum(p.numel() for p in run.plain_network.parameters())
    seconds = round(run.progress.seconds, 1)
    return {"run": run.config.run, "parameters": parameters, "training_seconds": seconds, **run.progress.rows[-1]}


def score_test_cases(config: TrainConfig) -> pd.DataFrame:
    """Segment every test case's CT with the run's checkpoint and score it (percent, convention `paper`).

    Writes the masks to the run's predictions/, scores_by_diameter.csv and, last, scores.csv: one row a case, also
    returned. Of a phantom, its own tree decides about branches by diameter; see `evaluation`.
    """
    network, info = load_checkpoint(config.folder / "checkpoint.safetensors")
    rows, by_diameter = [], []
    for case in config.test_cases:
        ct = read_ct(one_file(config.raw(case), "ct"))
        label = one_file(config.raw(case), "airway")
        prediction = segment(ct, network, info, device=config.device)
        write_volume(prediction, config.folder / "predictions" / f"{case}.nii.gz")
        scores, groups = score_case(prediction, read_mask(label, ct), truth=true_tree(label))
        rows.append({"case": case, **scores})
        by_diameter.append(groups["by_diameter"].assign(case=case))
    scores = pd.DataFrame(rows)
    study.write_csv(config.folder / "scores_by_diameter.csv", pd.concat([pd.DataFrame(), *by_diameter]))
    study.write_csv(config.folder / "scores.csv", scores)
    return scores
