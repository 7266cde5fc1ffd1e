"""What the training loop reads: data sets out of a cache, the order of their images, batches of
this rank."""

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hvd_yolo.comm import Comm, agree, gather_json, launch, log
from hvd_yolo.config import Config, EvalConfig, LoaderConfig
from hvd_yolo.data.balance import class_balance, read_image_weights
from hvd_yolo.data.cache import cache_place, cached, stage_place, staged
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.decoding import UnreadableImage
from hvd_yolo.data.digest import MAKE_ALIKE
from hvd_yolo.data.image_files import NETWORK_THREADS
from hvd_yolo.data.inputs import TrainingInputs
from hvd_yolo.data.loader import Batch, Batches, Loader, evaluation_inputs
from hvd_yolo.data.order import Order
from hvd_yolo.data.page_lock import workers_within
from hvd_yolo.data.worker import Inputs
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate import Evaluation, evaluate
from hvd_yolo.evaluate.limits import warn_of_limits
from hvd_yolo.memory import free_on_host
from hvd_yolo.pace import Pace
from hvd_yolo.precision import evaluation_amp
from hvd_yolo.watchdog import marked

# Of the memory that is free on a host, the part that batches of all its ranks may lock.
_PINNED_PART = 4


def refuse_different(splits: dict[str, dict[str, Any]], data: str, comm: Comm) -> None:
    """Raises InputError on all ranks where one sees another data set than rank 0; splits: the
    digest.summary() of each.

    Every rank deals the images by itself: of two data sets some images would be left out and others
    taken twice, and with another number of updates an epoch the ranks would wait for ever.
    """
    seen = {
        split: f"{found['images']} images ({found['truth']})" for split, found in splits.items()
    }
    looks = gather_json(comm, [socket.gethostname(), seen])
    odd = [rank for rank, (_, found) in enumerate(looks) if found != looks[0][1]]
    if odd:
        said = [
            f"rank {rank} on {looks[rank][0]} sees "
            + ", ".join(f"{split} {what}" for split, what in looks[rank][1].items())
            for rank in (0, odd[0])
        ]
        raise InputError(
            f"data {data} is not the same on all hosts: {' but '.join(said)}: other images, "
            f"classes or labels; {MAKE_ALIKE}"
        )


def kept(
    stack: ExitStack, options: LoaderConfig, dataset: Dataset, size: int, comm: Comm
) -> Dataset:
    """The data set staged and cached as asked for, images cut to `size`, until the stack is closed.

    Every rank calls it; those of a node make and use one copy. Raises InputError where there is no
    room.
    """
    threads = launch.threads_per_rank(comm.own_cpus)
    if options.stage:
        dataset = stack.enter_context(staged(dataset, stage_place(options.stage, threads)))
    if options.cache != "none":
        place = cache_place(options.cache, options.folder, threads, free_on_host)
        dataset = stack.enter_context(cached(dataset, size, place))
    return dataset


def largest_side(config: Config, stride: int) -> int:
    """The longest side that an input of the training can have, to which images are cut."""
    return _plain_order(config, 1, stride).largest_side


def smallest_side(config: Config, stride: int) -> int:
    """The shortest side that a square input of the training can have."""
    return _plain_order(config, 1, stride).smallest_side


def _make_order(config: Config, comm: Comm, dataset: Dataset, pace: Pace, stride: int) -> Order:
    """The order and shapes of the training images; all ranks call it and get the same."""
    options = config.order
    order = _plain_order(config, len(dataset), stride)
    with agree(comm):
        if options.image_weights:
            order.weights = read_image_weights(Path(options.image_weights), dataset)
        if options.class_balance:
            balance = class_balance(dataset, options.class_balance)
            order.weights = balance if order.weights is None else balance * order.weights
    if order.weights is not None:
        # Of rank 0, for a file may differ from host to host.
        order.weights = comm.broadcast(torch.from_numpy(order.weights)).numpy()
    if options.rect:
        order.aspects = _aspects(dataset, order.largest_side, comm)
        order.group = pace.dealing.global_batch
    return order


def open_loaders(
    config: Config,
    comm: Comm,
    train_set: Dataset,
    val_set: Dataset | None,
    pace: Pace,
    stride: int,
    start: tuple[int, int],
) -> tuple[Iterator[Batch], Callable[[nn.Module], Evaluation] | None]:
    """The micro-batches of this rank, from `start`, (epoch, images seen in it), on, and a function
    that scores a model, None without a val_set; every rank calls it. One pool of loader processes
    serves both. stride: the model's largest."""
    sources: list[Inputs] = [training_inputs(config, comm, train_set, pace, stride, start)]
    number = 0
    if val_set is not None:
        block = config.eval.batch_size or config.batch_size
        inputs = evaluation_inputs(val_set, config.imgsz, block, comm.rank, comm.size)
        sources.append(inputs)
        number = len(inputs.blocks)
    limit = _pin_limit(config.loader, comm)
    num_workers = launch.loader_workers(config.workers, comm.own_cpus, comm.device)
    is_chosen = config.workers >= 0
    loader = _make_loader(sources, num_workers, is_chosen, config.loader.prefetch, limit, comm)
    if loader.pinned_bytes and comm.is_main:
        fewer = (
            "" if loader.num_workers == num_workers else f" of the {num_workers} there are CPUs for"
        )
        log(comm).info(
            "loader: %d worker processes a rank%s, %.4g MB of page-locked memory, of at most %.4g "
            "(loader.pin_memory_mb)",
            loader.num_workers, fewer, loader.pinned_bytes / 1e6, limit / 1e6,
        )  # fmt: skip
    validate = None
    if val_set is not None:
        amp = evaluation_amp(config.eval.amp, config.train.amp, comm.device)
        validate = _validation(config.eval, amp, comm, val_set, Batches(loader, 1, number))
    return marked(loader.batches(0), comm, "an update"), validate


def open_training(
    config: Config,
    comm: Comm,
    train_set: Dataset,
    pace: Pace,
    stride: int,
    start: tuple[int, int],
) -> Iterator[Batch]:
    """See open_loaders."""
    return open_loaders(config, comm, train_set, None, pace, stride, start)[0]


def open_evaluation(
    dataset: Dataset, size: int, block: int, workers: int, comm: Comm
) -> Iterable[Batch]:
    """The batches that this rank evaluates, `block` images of size x size each, as often as they
    are gone through; every rank calls it. workers: as in Config."""
    inputs = evaluation_inputs(dataset, size, block, comm.rank, comm.size)
    number, options = len(inputs.blocks), LoaderConfig()
    num_workers = min(number, launch.loader_workers(workers, comm.own_cpus, comm.device))
    limit = _pin_limit(options, comm)
    loader = _make_loader([inputs], num_workers, workers >= 0, options.prefetch, limit, comm)
    return Batches(loader, 0, number)


def _pin_limit(options: LoaderConfig, comm: Comm) -> int:
    """Bytes of memory that this rank may page-lock."""
    return int(options.pin_memory_mb * 10**6) or free_on_host() // _PINNED_PART // comm.local_size


def _make_loader(
    sources: Sequence[Inputs],
    num_workers: int,
    is_chosen: bool,
    prefetch: int,
    pin_limit: int,
    comm: Comm,
) -> Loader:
    """The loader of this rank; every rank calls it. Raises InputError on all ranks where one of
    them cannot have the page-locked memory. is_chosen: the user has chosen num_workers."""
    with agree(comm):
        if comm.device.type == "cuda":
            num_bytes = max(source.slot_bytes for source in sources)
            num_workers = workers_within(pin_limit, num_bytes, num_workers, prefetch, is_chosen)
        return Loader(sources, num_workers, prefetch, comm.device)


def training_inputs(
    config: Config,
    comm: Comm,
    train_set: Dataset,
    pace: Pace,
    stride: int,
    start: tuple[int, int],
) -> TrainingInputs:
    """What open_training reads, micro-batch by micro-batch; every rank calls it."""
    order = _make_order(config, comm, train_set, pace, stride)
    return TrainingInputs(
        train_set, config.augment, order, pace.dealing, start, comm.rank, pace.closing_epoch
    )


def _validation(
    options: EvalConfig, amp: str, comm: Comm, val_set: Dataset, batches: Iterable[Batch]
) -> Callable[[nn.Module], Evaluation]:
    has_warned = False

    def validate(model: nn.Module) -> Evaluation:
        """The model's score on the validation split."""
        nonlocal has_warned
        marked_batches = marked(batches, comm, "the evaluation")
        found = evaluate(model, val_set, marked_batches, comm, options, amp=amp)
        if not has_warned:
            has_warned = True
            warn_of_limits(found.table, options, comm)
        return found

    return validate


def _plain_order(config: Config, num_images: int, stride: int) -> Order:
    multi_scale = config.order.multi_scale
    return Order(config.seed, num_images, config.imgsz, multi_scale=multi_scale, stride=stride)


def _aspects(dataset: Dataset, size: int, comm: Comm) -> np.ndarray:
    """Width / height (N) of each image, 1 for one that cannot be read; each rank looks at its
    share."""
    share = range(comm.rank, len(dataset), comm.size)
    with ThreadPoolExecutor(NETWORK_THREADS) as pool:
        own = list(pool.map(lambda index: _aspect(dataset, index, size), share))
    aspects = np.empty(len(dataset))
    for rank, part in enumerate(comm.gather(torch.tensor(own, dtype=torch.float64))):
        aspects[rank :: comm.size] = part.numpy()
    return aspects


def _aspect(dataset: Dataset, index: int, size: int) -> float:
    try:
        image = dataset.scaled(index, size)
    except UnreadableImage:
        return 1.0
    return image.width / image.height
