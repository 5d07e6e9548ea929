"""Training of one run on Lightning Fabric: resumable, and on a CPU bit for bit the same after a kill.

Loss of a step = loss(decoder group) + encoder_weight * loss(encoder group), as in Zheng et al., IEEE TMI 2021.
"""

import io
import pickle
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from airwaylib.errors import InputError
from airwaylib.files import atomic_path
from airwaylib.gradients.measures import probe
from airwaylib.losses.general_union import general_union_weight
from airwaylib.losses.table import loss_by_name, uses_weight
from airwaylib.networks.checkpoints import CheckpointInfo, build_network, save_checkpoint, start_from
from airwaylib.networks.supervision import as_group_logits, group_losses
from airwaystudy import home
from airwaystudy.data.crops import Crops
from airwaystudy.data.store import Store, hold
from airwaystudy.training.config import TrainConfig, snapshot_path
from airwaystudy.training.devices import gathered, is_first_process, make_fabric
from airwaystudy.training.missed import with_missed_points
from airwaystudy.training.optimisation import learning_rate_at, make_deterministic, make_optimizer
from airwaystudy.training.progress import Progress, refuse_another_run, validate


class Run:
    """One training run: network, optimiser and data of a `TrainConfig`, and where it stands."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.loss = loss_by_name(config.loss, **config.loss_parameters)
        self.fabric = make_fabric(config)
        drawing = {"crop", "rotation", "label_threshold", "thin_label_threshold", "seed", "stage", "augment"}
        drawing |= {"large_airways", "sampling"}
        place = self.fabric.device if config.workers == 0 else "cpu"  # a worker process must not touch the GPU
        self.crops = Crops(
            training_stores(config, self.fabric, place),
            per_case=config.crops_per_case,
            device=place,
            **config.model_dump(include=drawing),
        )
        self.validation = [Store.open(config.prepared(case)) for case in config.validation_cases]
        torch.manual_seed(config.seed)
        network = build_network(config.network, **config.network_parameters)
        self.network, self.optimizer = self.fabric.setup(network, make_optimizer(config, network))
        self.loader = self.fabric.setup_dataloaders(
            DataLoader(self.crops, config.batch_size, num_workers=config.workers, drop_last=False)
        )
        self.progress = Progress()

    @property
    def plain_network(self) -> nn.Module:
        """The network without Fabric's wrapper."""
        return self.network.module

    def weight(self, batch: dict[str, Tensor]) -> Tensor | None:
        """The loss's weight map of a batch; None if it has none."""
        if not uses_weight(self.config.loss):
            return None
        return general_union_weight(batch["distance"], batch["label"], **self.config.weight_parameters)

    def losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Loss of the prediction (and of deep supervision's coarser heads) and of the encoder group (0 without one).

        Over the crops of all processes; the gradient is this process's part, see `devices.gathered`.
        """
        logits = as_group_logits(self.network(batch["image"]))
        whole = {name: gathered(tensor, self.fabric) for name, tensor in batch.items() if name != "image"}
        encoder = None if logits.encoder is None else gathered(logits.encoder, self.fabric)
        deep = tuple(gathered(one, self.fabric) for one in logits.deep)
        logits = logits._replace(encoder=encoder, decoder=gathered(logits.decoder, self.fabric), deep=deep)
        return group_losses(logits, self.loss, whole["label"], self.weight(whole), self.config.airway_gain)

    def train_epoch(self) -> dict[str, float]:
        """One pass over the crops; the epoch's row of metrics.csv without the validation."""
        config, epoch = self.config, self.progress.epoch
        self.network.train()
        self.crops.epoch = epoch
        sums = np.zeros(2)
        hidden = None if self.fabric.is_global_zero else True
        bar = tqdm(self.loader, desc=f"epoch {epoch + 1}/{config.epochs}", unit="step", leave=False, disable=hidden)
        for step, batch in enumerate(bar):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate_at(config, (epoch + step / len(self.loader)) / config.epochs)
            sums += self.train_step(step, batch)
        decoder, encoder = (sums / len(self.loader)).tolist()
        return {
            "epoch": epoch + 1,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "loss": decoder + config.encoder_weight * encoder,
            "loss_decoder": decoder,
            "loss_encoder": encoder,
            **self.progress.probed(epoch + 1),
        }

    def train_step(self, step: int, batch: dict[str, Tensor]) -> tuple[float, float]:
        """One step of the optimiser; the losses of the decoder and the encoder group before it."""
        config, epoch, fabric = self.config, self.progress.epoch, self.fabric
        draw = int(
            np.random.default_rng([config.seed, config.stage, epoch, step]).integers(2**62)
        )  # of channel dropout
        draw += fabric.global_rank
        if config.probe_every and (epoch * len(self.loader) + step) % config.probe_every == 0:
            torch.manual_seed(draw)
            self.probe(epoch * len(self.loader) + step, batch)
        torch.manual_seed(draw)
        decoder, encoder = self.losses(batch)
        total = decoder + config.encoder_weight * encoder
        if not torch.isfinite(total):
            raise InputError(
                f"{config.folder}: the loss is {total:g} in step {step + 1} of epoch {epoch + 1}; its crops are in "
                f"{self.keep_batch(batch)}; lower learning_rate or set gradient_clip"
            )
        fabric.backward(total * fabric.world_size)
        if config.gradient_clip is not None:
            limits = {"max_norm": config.gradient_clip, "error_if_nonfinite": False}  # the loss will tell
            fabric.clip_gradients(self.network, self.optimizer, **limits)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return decoder.item(), encoder.item()

    def keep_batch(self, batch: dict[str, Tensor]) -> Path:
        """Write the batch of all processes to bad_batch.safetensors, to look into what went wrong with it."""
        path = self.config.folder / "bad_batch.safetensors"
        whole = {name: gathered(tensor, self.fabric).detach().cpu().contiguous() for name, tensor in batch.items()}
        if self.fabric.is_global_zero:
            with atomic_path(path) as temporary:
                temporary.write_bytes(safetensors.torch.save(whole))
        return path

    def probe(self, step: int, batch: dict[str, Tensor]) -> None:
        """Take down gradient ratio and erosion, layer by layer, before training step `step`."""
        about = {"epoch": self.progress.epoch + 1, "step": step}
        rows = probe(self.plain_network, self.loss, batch, self.weight(batch), self.config.encoder_weight)
        self.progress.probes += [about | row for row in rows]

    def save(self) -> None:
        """Checkpoints, then the state to resume from; metrics.csv last: it never tells of an epoch that is lost."""
        folder = self.config.folder
        if self.progress.is_best:
            save_checkpoint(folder / "best.safetensors", self.plain_network, self.info)
        save_checkpoint(folder / "checkpoint.safetensors", self.plain_network, self.info)
        self.keep_snapshot()
        state = {
            "network": self.plain_network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        buffer = io.BytesIO()  # torch.save tells of a full disk by an error of its own
        torch.save(state, buffer)
        with atomic_path(folder / "resume.pt") as temporary:
            temporary.write_bytes(buffer.getbuffer())
        self.progress.write(folder)

    def keep_snapshot(self) -> None:
        """Keep the weights after this many epochs, if the configuration asks for it."""
        if self.progress.epoch in self.config.snapshots:
            save_checkpoint(snapshot_path(self.config, self.progress.epoch), self.plain_network, self.info)

    @property
    def info(self) -> CheckpointInfo:
        """Metadata of the checkpoint."""
        config = self.config
        return CheckpointInfo(config.network, config.network_parameters, config.side, config.spacing)

    def resume(self) -> None:
        """Take up a run that was cut off, if there is one; a new one takes the weights it is to start from.

        Raises
        ------
        InputError
            The folder holds a run of another configuration, or a damaged state; no such weights.
        """
        folder = self.config.folder
        if self.config.start is not None and not (folder / "resume.pt").exists():
            start_from(self.plain_network, home.path(self.config.start))
        if self.fabric.is_global_zero and not (folder / "config.json").exists():
            home.write_json(folder / "config.json", self.config.model_dump())
        self.fabric.barrier()
        refuse_another_run(self.config)
        if (folder / "resume.pt").exists():
            try:
                state = torch.load(folder / "resume.pt", map_location=self.fabric.device, weights_only=True)
            except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
                raise InputError(f"{folder / 'resume.pt'}: damaged, no state to resume from; delete the run") from error
            self.plain_network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
            if self.fabric.is_global_zero:
                self.progress.write(folder)
        self.fabric.barrier()  # all have read what the first is about to write


def training_stores(config: TrainConfig, fabric: Fabric, device: str | torch.device) -> list[Store]:
    """The training cases, with what hard-skeleton sampling draws, in the memory of `device` as far as it goes."""
    stores = [Store.open(config.prepared(case)) for case in config.train_cases]
    if config.missed_by is not None:
        stores = with_missed_points(stores, home.run_folder(config.study, config.missed_by), fabric)
    memory = config.memory
    if memory is None:
        memory = torch.cuda.mem_get_info(device)[0] / 2e9 if torch.device(device).type == "cuda" else 1.0
    return hold(stores, memory, device)


def train(config: TrainConfig) -> dict[str, Any]:
    """Train the run `config` describes, or finish it; return the content of its summary.json.

    Writes results/<study>/runs/<run>/: config.json, metrics.csv (a row an epoch), TensorBoard events,
    checkpoint.safetensors (the last epoch's) and best.safetensors (the epoch that validated best), resume.pt,
    provenance.json, and summary.json last. A run with a summary is not trained again. Of the processes that share a
    run, the first alone writes; it keeps others out of the folder.

    Raises
    ------
    InputError
        Unknown names, cases without a store, another run or another process in the folder, a folder that cannot be
        written.
    """
    refuse_another_run(config)
    if not (config.folder / "summary.json").exists():  # of a finished run, no case need be opened
        alone = home.only_process(config.folder) if is_first_process() else nullcontext()
        with alone, make_deterministic(config.deterministic):
            run = Run(config)
            run.resume()
            train_to_the_end(run)
            if run.fabric.is_global_zero:
                finish(run)
            run.fabric.barrier()
    return home.read_json(config.folder / "summary.json")


def train_to_the_end(run: Run) -> None:
    """The epochs that are left."""
    config, progress, first = run.config, run.progress, run.fabric.is_global_zero
    if progress.epoch == 0 and first:
        run.keep_snapshot()
    events = str(config.folder / "tensorboard")
    with SummaryWriter(events, purge_step=progress.epoch + 1) if first else nullcontext() as writer:
        while not progress.ended(config):
            started, used = time.monotonic(), time.process_time()
            row = run.train_epoch()
            if run.validation and (row["epoch"] == config.epochs or row["epoch"] % config.validate_every == 0):
                row |= validate(run.plain_network, run.validation, config.side, run.fabric)
            progress.rows.append(row)
            progress.seconds += time.monotonic() - started
            progress.cpu_seconds += time.process_time() - used
            if first:
                run.save()
                for name, value in row.items():
                    writer.add_scalar(name, value, row["epoch"])
                print(progress.report(config), flush=True)


def finish(run: Run) -> None:
    """Write provenance, and the summary last."""
    config, progress = run.config, run.progress
    home.write_json(
        config.folder / "provenance.json",
        home.provenance(
            config,
            seed=config.seed,
            device=str(run.fabric.device),
            data=home.checksum(*map(config.prepared, config.train_cases)),
            seconds=round(progress.seconds, 1),
        ),
    )
    parameters = sum(p.numel() for p in run.plain_network.parameters())
    home.write_json(config.folder / "summary.json", {"run": config.run, "parameters": parameters, **progress.summary()})
