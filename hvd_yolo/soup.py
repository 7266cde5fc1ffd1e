"""`python -m hvd_yolo.soup a.pt b.pt`: one model whose weights are the mean of those of several
trainings from one start (Wortsman et al. 2022, Model soups), on any number of ranks."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hvd_yolo import checkpoint, cli
from hvd_yolo.comm import Comm, agree, batch_norm, connect, log
from hvd_yolo.config import SoupConfig, check_values, from_yaml, parse
from hvd_yolo.data import open_dataset
from hvd_yolo.data.class_changes import difference, shown
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.loader import Batch
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate import evaluate
from hvd_yolo.evaluate.classes import match_classes
from hvd_yolo.feed import open_evaluation
from hvd_yolo.models import build_model
from hvd_yolo.precision import evaluation_amp
from hvd_yolo.value_range import range_as_trained
from hvd_yolo.weights.trained import read_shares, trained_amp

State = dict[str, Tensor]


class _Kitchen:
    """Mixes weights, gives BatchNorm the statistics that belong to the mix, and tastes it."""

    def __init__(self, config: SoupConfig, comm: Comm, first: dict) -> None:
        trained = from_yaml(first["config"])
        limits = config.eval
        self.comm, self.config = comm, config
        self.size = config.imgsz or trained.imgsz
        self.value_range = trained.loader.value_range
        self.train_set = open_dataset(config.data or trained.data, "train")
        self.val_set = open_dataset(config.data or trained.data, "val")
        names = first["names"]
        data = config.data or trained.data
        self.classes, told = match_classes(self.val_set, names, "", data)
        if not self.val_set.has_truth:
            raise InputError(f"data {data}: the val split has no annotations to score a soup on")
        if told and comm.is_main:
            log(comm).warning(told)
        self.model = build_model(
            trained.model, len(names), limits.conf, limits.iou, limits.max_detections
        ).to(comm.device, memory_format=torch.channels_last)
        self.amp = evaluation_amp(limits.amp, trained_amp(trained), comm.device)

    def batches(self, dataset: Dataset) -> Iterable[Batch]:
        """This rank's share."""
        options = self.config
        return open_evaluation(dataset, self.size, options.batch_size, options.workers, self.comm)

    def cook(self, states: list[State], shares: list[float]) -> State:
        """The weighted mean of the states, with statistics recomputed on the training images."""
        self.model.load_state_dict(mean_state(states, shares))
        _recompute_statistics(self.model, self.batches(self.train_set), self.comm)
        return {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}

    def taste(self, state: State) -> float | None:
        """AP on the val split; None where it has no objects."""
        self.model.load_state_dict(state)
        self.config.eval.loss = False
        batches = self.batches(self.val_set)
        found = evaluate(
            self.model, self.val_set, batches, self.comm, self.config.eval, self.classes, self.amp
        )
        return found.metrics["AP"]


def main(argv: Sequence[str]) -> None:
    """Writes a checkpoint that evaluate, predict, export and train --weights take."""
    files = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    argv = [*(["--weights", ",".join(files)] if files else []), *argv[len(files) :]]
    config = parse(SoupConfig, argv, "hvd_yolo.soup")
    check_values(config)
    files = [Path(part.strip()) for part in config.weights.split(",") if part.strip()]
    if len(files) < 2:
        raise InputError("weights: name two or more checkpoints, soup a.pt b.pt")
    shares = read_shares("shares", config.shares, len(files))
    comm = connect(config.comm, config.device)
    with agree(comm):
        contents = [checkpoint.load(file) for file in files]
        states = [content["weights"] for content in contents]
        for file, content in zip(files, contents, strict=True):
            _check_same(file, content, contents[0])
        kitchen = _Kitchen(config, comm, contents[0])
    range_as_trained([kitchen.train_set, kitchen.val_set], kitchen.value_range, comm)
    if config.method == "greedy":
        soup, ap = _greedy(kitchen, files, states)
    else:
        soup = kitchen.cook(states, shares)
        ap = kitchen.taste(soup)
    if comm.is_main:
        kept = {key: contents[0][key] for key in ("config", "names", "category_ids")}
        checkpoint.save(Path(config.output), {**kept, "weights": soup})
        told = "undefined: the val split has no objects" if ap is None else f"{ap:.4f}"
        print(f"{config.output}: AP {told}", flush=True)


def mean_state(states: list[State], shares: list[float]) -> State:
    """The weighted mean of state dicts, in float64 on the way; counters are those of the first."""
    total = sum(shares)
    mixed = {}
    for name, value in states[0].items():
        mixed[name] = value
        if value.is_floating_point():
            parts = [s[name].double() * share for s, share in zip(states, shares, strict=True)]
            mixed[name] = (sum(parts) / total).to(value.dtype)
    return mixed


def _greedy(kitchen: _Kitchen, files: list[Path], states: list[State]) -> tuple[State, float]:
    """The soup and its AP: from the best on, each is taken in if AP does not fall (ibid., recipe
    1)."""
    alone = [kitchen.taste(state) for state in states]
    if None in alone:
        raise InputError(
            "method greedy: the val split has no objects to score against; name a data set that "
            "has some with --data, or take --method uniform"
        )
    order = sorted(range(len(states)), key=lambda i: -alone[i])
    chosen, soup, best = [order[0]], states[order[0]], alone[order[0]]
    for i in order[1:]:
        trial = kitchen.cook([states[j] for j in (*chosen, i)], [1.0] * (len(chosen) + 1))
        ap = kitchen.taste(trial)
        if ap >= best:
            chosen, soup, best = [*chosen, i], trial, ap
    if kitchen.comm.is_main:
        for i in order:
            taken = "taken" if i in chosen else "left"
            print(f"{files[i]}: AP {alone[i]:.4f} alone, {taken}", flush=True)
    return soup, best


@torch.no_grad()
def _recompute_statistics(model: nn.Module, batches: Iterable[Batch], comm: Comm) -> None:
    """Running statistics as the mean over all training images, of all ranks (Izmailov et al. 2018,
    SWA, section 3.2)."""
    norms = [
        module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        # The cumulative mean.
        norm.momentum = None
    dtype = next(model.parameters()).dtype
    for batch in batches:
        if batch.items:
            model(batch.to_model(comm.device, dtype)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    if not norms:
        return
    # A rank counts by its batches, of which it may have none.
    own = torch.stack([norm.num_batches_tracked for norm in norms]).double()
    total = comm.sum(own)
    if not bool((total > 0).all()):
        raise InputError(
            "the statistics of BatchNorm cannot be computed from batches that give a single value "
            "a channel: take a larger --batch_size or --imgsz"
        )
    for norm, share in zip(norms, (own * comm.size / total).tolist(), strict=True):
        norm.running_mean.mul_(share)
        norm.running_var.mul_(share)
    batch_norm.average_statistics([model], comm)


def _check_same(file: Path, content: dict, first: dict) -> None:
    if content["names"] != first["names"]:
        raise InputError(
            f"weights {file}: its classes are {shown(content['names'])}, those of the first are "
            f"{shown(first['names'])}: {difference(first['names'], content['names'])}; only "
            "trainings with the same classes in the same order can be averaged"
        )
    is_same = all(
        name in content["weights"] and content["weights"][name].shape == value.shape
        for name, value in first["weights"].items()
    )
    if not is_same:
        raise InputError(f"weights {file}: another model than the first")
    ranges = [from_yaml(one["config"]).loader.value_range for one in (content, first)]
    if ranges[0] != ranges[1]:
        raise InputError(
            f"weights {file}: trained with loader.value_range {ranges[0]:.10g}, the first with "
            f"{ranges[1]:.10g}: they saw the same image differently"
        )


if __name__ == "__main__":
    cli.run(main, "a smaller --batch_size or --imgsz, or fewer --workers")
