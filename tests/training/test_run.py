"""Training: a run does what its configuration says, learns, and survives a kill with the same metrics.csv."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from airwaylib.errors import InputError
from airwaylib.networks.checkpoints import load_checkpoint
from airwaystudy import home
from airwaystudy.data.samplers import SAMPLING
from airwaystudy.training import run as training
from airwaystudy.training.config import TrainConfig, snapshot_path
from airwaystudy.training.progress import VALIDATED
from airwaystudy.training.run import Run, train

TINY = {
    "run": "tiny",
    "train_cases": ["mini_0000"],
    "width": 1,
    "crop": 32,
    "crops_per_case": 4,
    "batch_size": 2,
    "epochs": 2,
    "validate_every": 2,
    "spacing": 1.0,
    "device": "cpu",
}


@pytest.fixture
def config(phantoms, tmp_path, monkeypatch):
    """Make a tiny configuration whose results land in tmp_path."""
    monkeypatch.setattr(home, "HOME", tmp_path)
    return lambda **changes: TrainConfig(**{**TINY, "data": str(phantoms), **changes})


def test_run_leaves_what_it_promises(config):
    summary = train(config(validation_cases=["mini_0001"]))
    folder = config().folder
    rows = pd.read_csv(folder / "metrics.csv")
    assert list(rows["epoch"]) == [1, 2]
    assert rows["td"].isna().tolist() == [True, False]  # validated every second epoch
    assert 0 <= rows["precision"].iloc[-1] <= 100
    assert rows["loss"].iloc[0] == pytest.approx(rows["loss_decoder"].iloc[0] + rows["loss_encoder"].iloc[0], rel=1e-4)
    assert summary == home.read_json(folder / "summary.json")
    assert summary["epoch"] == 2
    assert home.read_json(folder / "provenance.json")["parameters"]["crop"] == 32
    assert list((folder / "tensorboard").glob("events*"))
    _, info = load_checkpoint(folder / "checkpoint.safetensors")
    assert (info.window, info.spacing, info.parameters) == (
        32,
        1.0,
        {"width": 1, "supervision": "both", "dropout": 0.3},
    )
    assert not list(folder.rglob(".tmp*"))


def test_finished_run_is_not_trained_again(config):
    first = train(config())
    stamp = (config().folder / "checkpoint.safetensors").stat().st_mtime_ns
    assert train(config()) == first
    assert (config().folder / "checkpoint.safetensors").stat().st_mtime_ns == stamp


def test_same_seed_same_metrics_and_weights(config):
    train(config(run="a"))
    train(config(run="b"))
    train(config(run="c", seed=1))
    a, b, c = (config(run=run).folder / "metrics.csv" for run in "abc")
    assert a.read_bytes() == b.read_bytes()
    assert a.read_bytes() != c.read_bytes()
    assert a.with_name("checkpoint.safetensors").read_bytes() == b.with_name("checkpoint.safetensors").read_bytes()


@pytest.mark.parametrize("augment", [False, True])
def test_number_of_workers_changes_nothing(config, augment):
    train(config(run="none", epochs=1, augment=augment))
    train(config(run="two", epochs=1, augment=augment, workers=2))
    none, two = (config(run=run).folder / "metrics.csv" for run in ("none", "two"))
    assert none.read_bytes() == two.read_bytes()


def test_a_second_process_says_that_the_first_is_at_work(config, tmp_path):
    program = "import sys, json, pathlib; from airwaystudy import home; home.HOME = pathlib.Path(sys.argv[1]);"
    program += "from airwaystudy.training import config, run; run.train(config.TrainConfig(**json.loads(sys.argv[2])))"
    parameters = json.dumps(config(epochs=50).model_dump())
    first = subprocess.Popen([sys.executable, "-c", program, tmp_path, parameters], stdout=subprocess.PIPE, text=True)
    with first.stdout:
        assert first.stdout.readline().startswith("epoch 1/50")
        with pytest.raises(InputError, match=rf"runs/tiny: process {first.pid} on \S+ \(since .*\) is at work here"):
            train(config(epochs=50))
        first.kill()
        first.wait()
    rows = len(pd.read_csv(config().folder / "metrics.csv"))
    assert 1 <= rows < 50
    with home.only_process(config().folder):  # gone with the process
        pass


def test_killed_run_resumes_to_the_same_metrics(config, tmp_path):
    """kill -9 after the first epoch and again right after the second start: the end is as if nothing had happened."""
    settings = {"epochs": 4, "crops_per_case": 2, "validate_every": 4, "validation_cases": ["mini_0001"], "crop": 64}
    folder = config(run="killed").folder
    program = (
        "import sys, json, pathlib; from airwaystudy import home as study;"
        "from airwaystudy.training import config, run as training;"
        "study.HOME = pathlib.Path(sys.argv[1]);"
        "training.train(config.TrainConfig(**json.loads(sys.argv[2])))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # equal runs have equal numbers of threads

    def start(run):
        parameters = json.dumps(config(run=run, **settings).model_dump())
        arguments = [sys.executable, "-c", program, str(tmp_path), parameters]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)

    for epochs_before_kill in (1, 2):
        process = start("killed")
        process.stdout.readline()  # one line an epoch, and each start does one before it is killed
        time.sleep(0.05 * epochs_before_kill)  # somewhere in the next epoch, or while its files are written
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not (folder / "summary.json").exists()
        assert len(pd.read_csv(folder / "metrics.csv")) >= epochs_before_kill
    for run in ("killed", "undisturbed"):
        process = start(run)
        process.communicate()
        assert process.returncode == 0
    assert (folder / "metrics.csv").read_bytes() == (config(run="undisturbed").folder / "metrics.csv").read_bytes()


def test_damaged_or_other_run_is_refused_and_kept(config):
    train(config(epochs=1))
    before = (config().folder / "metrics.csv").read_bytes()
    with pytest.raises(InputError, match="another epochs"):
        train(config(epochs=3))
    assert (config().folder / "metrics.csv").read_bytes() == before
    (config().folder / "summary.json").unlink()
    (config().folder / "resume.pt").write_bytes(b"not a state")
    with pytest.raises(InputError, match=r"resume\.pt"):
        train(config(epochs=1))


def test_a_finished_run_opens_no_case_and_takes_other_memory(config, monkeypatch):
    first = train(config())
    monkeypatch.setattr(training, "Run", None)
    assert train(config(memory=0.1, workers=1)) == first
    with pytest.raises(InputError, match="another seed;"):
        train(config(seed=5, memory=0.1))


def test_a_run_from_before_a_setting_was_known_had_its_default(config):
    first = train(config())
    file = config().folder / "config.json"
    known = home.read_json(file)
    del known["augment"], known["gradient_clip"]
    home.write_json(file, known)
    assert train(config()) == first
    with pytest.raises(InputError, match="another augment;"):
        train(config(augment=True))


def test_snapshots_are_kept_of_the_epochs_asked_for(config):
    first = Run(config())
    train(config(snapshots=[0, 2]))
    folder = config().folder
    assert sorted(path.name for path in folder.glob("snapshot*")) == [f"snapshot_000{n}.safetensors" for n in (0, 2)]
    before, _ = load_checkpoint(snapshot_path(config(), 0))
    after, _ = load_checkpoint(snapshot_path(config(), 2))
    final, _ = load_checkpoint(folder / "checkpoint.safetensors")
    for name, weight in first.plain_network.state_dict().items():
        torch.testing.assert_close(before.state_dict()[name], weight, rtol=0, atol=0)
        torch.testing.assert_close(after.state_dict()[name], final.state_dict()[name], rtol=0, atol=0)


def test_probes_are_taken_down_and_change_nothing(config):
    train(config(run="plain"))
    train(config(run="probed", probe_every=3))
    plain, probed = (pd.read_csv(config(run=run).folder / "metrics.csv") for run in ("plain", "probed"))
    pd.testing.assert_frame_equal(plain, probed[plain.columns])  # the same training, bit for bit
    probes = pd.read_csv(config(run="probed").folder / "probes.csv")
    assert set(probes["step"]) <= {0, 3}  # two steps an epoch: of four crops, two at a time
    assert probes.groupby("step")["layer"].nunique().eq(18).all()
    erosion = probes["erosion"].dropna()  # a crop without airway has none
    assert len(erosion) >= 18 and erosion.between(0, 1).all()
    first = probes[probes["epoch"] == 1]
    assert probed.loc[0, "erosion"] == pytest.approx(first["erosion"].mean(), rel=1e-4)
    assert probed.loc[0, "ratio"] == pytest.approx(first["ratio"].mean(), rel=1e-4)


def test_a_stage_starts_from_the_weights_of_the_last_one(config, tmp_path):
    train(config(epochs=1))
    former = config().folder / "checkpoint.safetensors"
    stage = Run(config(run="stage2", start=str(former)))
    stage.resume()
    for name, weight in load_checkpoint(former)[0].state_dict().items():
        torch.testing.assert_close(stage.plain_network.state_dict()[name], weight, rtol=0, atol=0)
    train(stage.config)
    former.unlink()  # a stage that has begun goes on from its own state
    again = Run(stage.config)
    again.resume()
    assert again.progress.epoch == stage.config.epochs


def test_a_stage_without_its_start_is_refused_before_anything_is_written(config, tmp_path):
    with pytest.raises(InputError, match=r"none\.safetensors: no such checkpoint"):
        train(config(run="stage2", start=str(tmp_path / "none.safetensors")))
    assert not config(run="stage2").folder.exists()


def test_crops_are_drawn_as_the_configuration_says(config):
    settings = {"crop": 40, "rotation": 3.0, "label_threshold": 0.4, "seed": 7, "large_airways": 0.2}
    for augment in (False, True):
        crops = Run(config(crops_per_case=6, augment=augment, **settings)).crops
        assert len(crops) == 6
        assert {name: getattr(crops, name) for name in settings} == settings
        assert crops.augment == augment


def gradient_norms(run, monkeypatch):
    """Norm of the gradient at each step of an epoch."""
    norms, step = [], run.optimizer.step

    def watched():
        gradients = [p.grad for p in run.network.parameters() if p.grad is not None]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
        step()

    monkeypatch.setattr(run.optimizer, "step", watched)
    run.train_epoch()
    return norms


def test_gradient_is_cut_to_its_limit(config, monkeypatch):
    any_length = gradient_norms(Run(config()), monkeypatch)
    assert len(any_length) == 2 and min(any_length) > 0.01
    assert gradient_norms(Run(config(gradient_clip=1e-3)), monkeypatch) == pytest.approx([1e-3] * 2, rel=1e-2)
    assert gradient_norms(Run(config(gradient_clip=1e3)), monkeypatch) == any_length  # shorter ones stay as they are


def test_training_lowers_the_loss(config):
    train(config(epochs=5, crops_per_case=16, width=2, learning_rate=1e-2, loss="weighted_bce", supervision="final"))
    loss = pd.read_csv(config().folder / "metrics.csv")["loss"]
    assert loss.iloc[-1] < 0.95 * loss.iloc[0]


@pytest.mark.parametrize("supervision", ["both", "decoder", "deep", "final"])
@pytest.mark.parametrize("loss", ["general_union", "dice"])
def test_every_supervision_and_loss_gives_a_gradient(config, supervision, loss):
    run = Run(config(supervision=supervision, loss=loss))
    batch = {name: tensor[None] for name, tensor in run.crops[0].items()}
    decoder, encoder = run.losses(batch)
    (decoder + encoder).backward()
    assert (encoder.item() == 0) == (supervision != "both")
    assert all(torch.isfinite(p.grad).all() for p in run.network.parameters() if p.grad is not None)
    assert run.plain_network.ec1.conv.weight.grad.abs().sum() > 0


def test_deep_supervision_weighs_its_levels(config):
    """The loss is that of the prediction + 1/2 and 1/4 of the coarser levels'."""
    run = Run(config(supervision="deep", loss="dice"))
    run.network.eval()
    batch = {name: tensor[None] for name, tensor in run.crops[0].items()}
    logits = run.network(batch["image"])
    parts = [run.loss(torch.sigmoid(part), batch["label"]).item() for part in (logits.decoder, *logits.deep)]
    assert len(parts) == 3
    assert run.losses(batch)[0].item() == pytest.approx(parts[0] + parts[1] / 2 + parts[2] / 4, rel=1e-5)


def test_general_union_loss_gets_its_weight_with_the_loss_own_alpha(config, monkeypatch):
    seen = []
    original = training.general_union_weight
    monkeypatch.setattr(training, "general_union_weight", lambda *a, **k: seen.append(k) or original(*a, **k))
    batch_of = lambda run: {name: tensor[None] for name, tensor in run.crops[0].items()}  # noqa: E731
    for alpha in (None, 0.2):
        run = Run(config(alpha=alpha))
        run.losses(batch_of(run))
    Run(config(loss="dice")).losses(batch_of(run))
    assert seen == [{}, {"alpha": 0.2}]


def test_windows_are_the_crops_or_what_is_asked_for(config, monkeypatch):
    seen, scores = [], dict.fromkeys(VALIDATED, 50.0)
    monkeypatch.setattr(training, "validate", lambda network, stores, window, fabric: seen.append(window) or scores)
    for run, window, side in (("a", None, 32), ("b", 48, 48)):
        train(config(run=run, window=window, epochs=1, validation_cases=["mini_0001"]))
        info = load_checkpoint(config(run=run).folder / "checkpoint.safetensors")[1]
        assert seen.pop() == info.window == side


def test_the_loss_gets_its_root(config):
    for loss in ("general_union", "root_tversky"):
        runs = [Run(config(loss=loss, root=root, alpha=0.3)) for root in (None, 0.7, 0.5)]
        batch = {name: tensor[None] for name, tensor in runs[0].crops[0].items()}
        probability = torch.full_like(batch["label"], 0.5)
        values = [run.loss(probability, batch["label"], run.weight(batch)).item() for run in runs]
        assert values[0] == values[1] > values[2] + 0.005  # p^0.5 is more than p^0.7


def test_not_a_number_stops_the_run_and_keeps_the_batch(config, monkeypatch):
    run = Run(config())
    batch = next(iter(run.loader))
    monkeypatch.setattr(run, "losses", lambda batch: (torch.tensor(np.nan), torch.tensor(0.0)))
    with pytest.raises(InputError, match=r"the loss is nan in step 1 of epoch 1; its crops are in .*bad_batch"):
        run.train_epoch()
    kept = safetensors.torch.load_file(config().folder / "bad_batch.safetensors")
    assert kept.keys() == batch.keys()
    assert all(torch.equal(kept[name], batch[name]) for name in batch)


def test_best_checkpoint_is_that_of_the_epoch_that_validated_best(config, monkeypatch):
    scores = iter([40, 90, 60])
    monkeypatch.setattr(training, "validate", lambda *_: dict.fromkeys(VALIDATED, next(scores)))
    settings = {"epochs": 3, "validate_every": 1, "validation_cases": ["mini_0001"], "snapshots": [1, 2, 3]}
    summary = train(config(**settings))
    assert (summary["best_epoch"], summary["best_score"], summary["epoch"]) == (2, 90, 3)
    folder = config().folder
    weights = {name: (folder / name).read_bytes() for name in ("best.safetensors", "checkpoint.safetensors")}
    assert weights["best.safetensors"] == snapshot_path(config(), 2).read_bytes()
    assert weights["checkpoint.safetensors"] == snapshot_path(config(), 3).read_bytes()
    assert config(**settings).checkpoint.name == "checkpoint.safetensors"
    assert config(test_with="best", **settings).checkpoint == folder / "best.safetensors"


def test_training_stops_when_validation_gets_no_better(config, monkeypatch, capsys):
    scores = iter([40, 90, 60, 90, 95])
    monkeypatch.setattr(training, "validate", lambda *_: dict.fromkeys(VALIDATED, next(scores)))
    settings = {"epochs": 9, "validate_every": 1, "validation_cases": ["mini_0001"], "crops_per_case": 2}
    assert train(config(patience=2, **settings))["epoch"] == 4  # two without a better one than the second
    assert "stopped: 2 validations without a better score" in capsys.readouterr().out


def test_a_full_disk_leaves_the_last_good_checkpoint(config, tmp_path):
    """Files may grow to 16 kB from the second epoch on: the run stops with one line, and goes on with more room."""
    program = (
        "import sys, json, pathlib, resource; from airwaystudy import home as study;"
        "from airwaystudy.training import config, run as training;"
        "study.HOME = pathlib.Path(sys.argv[1]);"
        "save = training.Run.save;"
        "limit = lambda run: run.progress.epoch > 1 and resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384));"
        "training.Run.save = lambda run: (limit(run), save(run));"
        "training.train(config.TrainConfig(**json.loads(sys.argv[2])))"
    )
    whole, cut = config(run="whole", epochs=3, crops_per_case=2), config(run="cut", epochs=3, crops_per_case=2)
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    arguments = [sys.executable, "-c", program, str(tmp_path), json.dumps(cut.model_dump())]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert re.search(r"InputError: .*checkpoint\.safetensors: cannot be written", done.stderr)
    assert len(pd.read_csv(cut.folder / "metrics.csv")) == 1
    load_checkpoint(cut.folder / "checkpoint.safetensors")
    assert not list(cut.folder.rglob(".tmp*"))
    train(cut)
    train(whole)
    assert (cut.folder / "metrics.csv").read_bytes() == (whole.folder / "metrics.csv").read_bytes()


def test_hard_skeleton_crops_hold_what_an_earlier_run_missed(config):
    train(config(run="first", loss="dice", epochs=1))
    run = Run(config(run="second", sampling="hard_skeleton", missed_by="first", epochs=1))
    (store,) = run.crops.stores
    assert (config(run="first").folder / "missed" / "mini_0000.npz").exists()
    assert 0 < len(store.missed_points) <= len(store.centreline_points)
    assert run.crops.samplers == SAMPLING["hard_skeleton"]
    assert train(run.config)["epoch"] == 1


def test_cases_are_held_in_memory_as_the_configuration_says(config):
    held = [isinstance(Run(config(memory=memory)).crops.stores[0].image, torch.Tensor) for memory in (None, 0, 0.5)]
    assert held == [True, False, True]


def test_deterministic_mode_is_on_in_training_only(config, monkeypatch):
    seen = []
    monkeypatch.setattr(
        training, "train_to_the_end", lambda run: seen.append(torch.are_deterministic_algorithms_enabled())
    )
    monkeypatch.setattr(training, "finish", lambda run: home.write_json(run.config.folder / "summary.json", {}))
    for deterministic in (True, False):
        train(config(run=str(deterministic), deterministic=deterministic))
        assert not torch.are_deterministic_algorithms_enabled()
    assert seen == [True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "alexnet"}, "network 'alexnet' is unknown"),
        ({"loss": "hinge"}, "hinge"),
        ({"loss": "dice", "alpha": 0.2}, "alpha"),
        ({"loss": "tversky", "root": 0.5}, "loss 'tversky' has no parameter root"),
        ({"train_cases": ["mini_0404"]}, r"mini_0404\.zarr"),
        ({"crop": 128}, "mini_0000"),
        ({"sampling": "hard_skeleton", "missed_by": "none"}, "none: not a finished run"),
        ({"devices": 2}, "1 processes are running"),
    ],
)
def test_bad_configurations_say_what_is_wrong(config, change, message):
    with pytest.raises(InputError, match=message):
        train(config(**change))


def test_results_folder_that_cannot_be_written(config, monkeypatch, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setattr(home, "HOME", blocked)
    with pytest.raises(InputError, match="blocked"):
        train(config())
