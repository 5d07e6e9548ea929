"""Training of one run on Lightning Fabric: resumable, and on a CPU bit for bit the same after a kill.

Loss of a step = loss(decoder group) + encoder_weight * loss(encoder group), as in Zheng et al., IEEE TMI 2021.
"""

import pickle
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from airwaylib import study
from airwaylib.config import TrainConfig
from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.inference import predict_probability
from airwaylib.loss_table import WEIGHTED, loss_by_name
from airwaylib.losses import general_union_weight
from airwaylib.metrics import evaluate
from airwaylib.networks import CheckpointInfo, build_network, save_checkpoint, start_from
from airwaylib.optimisation import learning_rate_at, make_fabric, make_optimizer
from airwaylib.patches import Crops, Store
from airwaylib.probe import probe
from airwaylib.supervision import group_losses

VALIDATED = ("td", "bd", "precision", "dsc", "tpr")  # scores of the validation cases in metrics.csv


@dataclass
class Progress:
    """How far a run has come: a row of metrics.csv an epoch, the seconds they took, and the rows of probes.csv."""

    rows: list[dict[str, float]]
    seconds: float = 0.0
    probes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.rows)


class Run:
    """One training run: network, optimiser and data of a `TrainConfig`, and where it stands."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.loss = loss_by_name(config.loss, **({} if config.alpha is None else {"alpha": config.alpha}))
        self.weight_alpha = {} if config.alpha is None else {"alpha": config.alpha}
        stores = [Store.open(config.prepared(case)) for case in config.train_cases]
        drawing = config.model_dump(include={"crop", "rotation", "label_threshold", "seed", "augment", "large_airways"})
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

    def weight(self, batch: dict[str, Tensor]) -> Tensor | None:
        """The loss's weight map of a batch; None if it has none."""
        if self.config.loss not in WEIGHTED:
            return None
        return general_union_weight(batch["distance"], batch["label"], **self.weight_alpha)

    def losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Loss of the prediction (and of deep supervision's coarser heads) and of the encoder group (0 without one)."""
        return group_losses(self.network(batch["image"]), self.loss, batch["label"], self.weight(batch))

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
            draw = int(np.random.default_rng([config.seed, epoch, step]).integers(2**62))  # of channel dropout
            if config.probe_every and (epoch * len(self.loader) + step) % config.probe_every == 0:
                torch.manual_seed(draw)
                self.probe(epoch * len(self.loader) + step, batch)
            torch.manual_seed(draw)
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
            **self.probed(epoch + 1),
        }

    def probed(self, epoch: int) -> dict[str, float]:
        """Mean ratio and erosion over an epoch's probes; nothing for a run without."""
        probes = pd.DataFrame(self.progress.probes)
        return probes[probes["epoch"] == epoch][["ratio", "erosion"]].mean().to_dict() if len(probes) else {}

    def probe(self, step: int, batch: dict[str, Tensor]) -> None:
        """Take down gradient ratio and erosion, layer by layer, before training step `step`."""
        about = {"epoch": self.progress.epoch + 1, "step": step}
        rows = probe(self.plain_network, self.loss, batch, self.weight(batch), self.config.encoder_weight)
        self.progress.probes += [about | row for row in rows]

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
        self.keep_snapshot()
        state = {
            "network": self.plain_network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        with atomic_path(folder / "resume.pt") as temporary:
            torch.save(state, temporary)
        self.write_metrics()

    def keep_snapshot(self) -> None:
        """Keep the weights after this many epochs, if the configuration asks for it."""
        if self.progress.epoch in self.config.snapshots:
            save_checkpoint(snapshot_path(self.config, self.progress.epoch), self.plain_network, self.info)

    def write_metrics(self) -> None:
        """metrics.csv: one row an epoch, nothing in it that differs between two equal runs (no clock); probes.csv."""
        tables = {"metrics.csv": self.progress.rows} | (
            {"probes.csv": self.progress.probes} if self.progress.probes else {}
        )
        for name, rows in tables.items():
            with atomic_path(self.config.folder / name) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")

    @property
    def info(self) -> CheckpointInfo:
        """What the checkpoint says of itself."""
        config = self.config
        parameters = {"width": config.width, "supervision": config.supervision}
        return CheckpointInfo(config.network, parameters, config.crop, config.spacing)

    def resume(self) -> None:
        """Take up a run that was cut off, if there is one; a new one takes the weights it is to start from.

        Raises
        ------
        InputError
            The folder holds a run of another configuration, or a damaged state; no such weights.
        """
        folder, config = self.config.folder, self.config.model_dump()
        if self.config.start is not None and not (folder / "resume.pt").exists():
            start_from(self.plain_network, study.path(self.config.start))
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
    if run.progress.epoch == 0:
        run.keep_snapshot()
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


def snapshot_path(config: TrainConfig, epoch: int) -> Path:
    """Checkpoint of a run's network after `epoch` epochs, kept if `config.snapshots` names it; 0: before training."""
    return config.folder / f"snapshot_{epoch:04d}.safetensors"


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
