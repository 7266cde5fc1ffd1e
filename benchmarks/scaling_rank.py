"""What one rank of benchmarks/scaling.py runs, timed by phase: our training step, or torch's
DistributedDataParallel around the same model.

    python benchmarks/scaling_rank.py SETTINGS [--key value of hvd_yolo ...]

SETTINGS is JSON: "side" (ours or ddp), "folder" for rank*.json, "warmup" and "steps", "bucket_mb"
of DDP, "alone" (how many processes start together without talking; 0 where they are ranks of a
job), "in_memory" (drawn images made before the first step, else the real loader).
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.in_memory import repeated_batches
from hvd_yolo import feed
from hvd_yolo.comm import Comm, allocator, connect
from hvd_yolo.comm.single import SingleComm
from hvd_yolo.config import Config, load
from hvd_yolo.data import open_dataset
from hvd_yolo.data.loader import Batch
from hvd_yolo.models import YOLO, largest_stride
from hvd_yolo.models.losses import Losses, as_losses, own_losses
from hvd_yolo.pace import Pace, make_pace
from hvd_yolo.precision import autocast, choose_amp
from hvd_yolo.state import TrainState, new_state, share_state
from hvd_yolo.step import Step
from hvd_yolo.stopping import StopRequest

COLLECTIVES = ("sum", "mean", "gather", "broadcast", "barrier", "adasum")
PHASES = ("data", "forward", "loss", "backward", "communication", "optimizer", "other")

# The drawn set has few classes; the head of a model for COCO has these.
NUM_CLASSES = 80
NUM_IN_MEMORY = 4


class Clock:
    """Seconds by phase: what passes from one enter() to the next belongs to the phase entered."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets what it has seen; "other" begins."""
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.phase, self._since = "other", time.perf_counter()

    def enter(self, phase: str) -> None:
        """Ends the phase under way and begins another."""
        now = time.perf_counter()
        self.seconds[self.phase] += now - self._since
        self.phase, self._since = phase, now

    def move(self, since: float, phase: str) -> None:
        """Gives what has passed since the moment `since` of the phase under way to another."""
        self.seconds[self.phase] += since - self._since
        self._since = since
        self.phase = phase


class TimedComm:
    """The real comm of a Step; waits for other ranks are "communication"."""

    def __init__(self, comm: Comm, clock: Clock) -> None:
        self._comm = comm
        self._clock = clock

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever the comm has)
        found = getattr(self._comm, name)
        return self._timed(found) if name in COLLECTIVES else found

    @contextmanager
    def reduced_gradients(
        self, optimizer: torch.optim.Optimizer, beside: Callable[[], Tensor]
    ) -> Iterator[Tensor]:
        """See Comm; the inside is "optimizer"."""
        self._clock.enter("communication")
        with self._comm.reduced_gradients(optimizer, beside) as sums:
            self._clock.enter("optimizer")
            yield sums
        self._clock.enter("other")

    def _timed(self, collective: Callable) -> Callable:
        def waited(*arguments: object) -> object:
            before = self._clock.phase
            self._clock.enter("communication")
            found = collective(*arguments)
            self._clock.enter(before)
            return found

        return waited


class TimedBatches(Iterator[Batch]):
    """Batches, the wait for which is "data"; `images` counts what they held."""

    def __init__(self, batches: Iterator[Batch], clock: Clock) -> None:
        self._batches = batches
        self._clock = clock
        self.images = 0

    def __next__(self) -> Batch:
        self._clock.enter("data")
        batch = next(self._batches)
        self._clock.enter("other")
        self.images += len(batch)
        return batch


def watch(model: nn.Module, clock: Clock) -> None:
    """Forward begins with the model, the loss after its head (with a foreign model it is part of
    forward)."""
    model.register_forward_pre_hook(lambda *_: clock.enter("forward"))
    if isinstance(model, YOLO):
        model.head.register_forward_hook(lambda *_: clock.enter("loss"))


def open_batches(
    config: Config, comm: Comm, pace: Pace, stride: int, in_memory: bool
) -> Iterator[Batch]:
    """The batches of this rank, out of the real loader, or the same few of them for ever."""
    train_set = open_dataset(config.data, "train")
    if in_memory:
        return repeated_batches(config, comm, train_set, pace, stride, NUM_IN_MEMORY)
    return feed.open_training(config, comm, train_set, pace, stride, (0, 0))


def prepare_ours(
    config: Config, settings: dict[str, Any], clock: Clock
) -> tuple[Comm, TrainState, Callable[[], int]]:
    """The comm, the state, and a function that makes an update and gives the images it took."""
    comm = connect(config.comm, "cpu", config.train.sync_bn)
    state, pace = _new_state(config, comm, settings["in_memory"])
    share_state(state, comm)

    def losses_of(model: nn.Module, images: Tensor, targets: list) -> "dict[str, Tensor] | Losses":
        """See own_losses; what follows is "backward"."""
        found = own_losses(model, images, targets)
        clock.enter("backward")
        return found

    step = Step(config, TimedComm(comm, clock), pace, StopRequest(), print, losses_of)
    step.prepare(state)
    watch(state.model, clock)
    stride = largest_stride(state.model)
    batches = TimedBatches(open_batches(config, comm, pace, stride, settings["in_memory"]), clock)

    def update() -> int:
        """One update."""
        before = batches.images
        step.update(state, batches)
        return batches.images - before

    return comm, state, update


class TermsOnly(nn.Module):
    """A detector whose losses are a tuple of tensors, the form in which DDP finds them: their sum,
    and its divisor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """See Detector."""
        losses = as_losses(self.model(images, targets), len(images))
        return losses.total(), losses.weight


def prepare_ddp(
    config: Config, settings: dict[str, Any], clock: Clock
) -> tuple[Comm, TrainState, Callable[[], int]]:
    """As prepare_ours, around DistributedDataParallel: the same model, loss, precision, layout,
    malloc, clipping, optimizer and EMA, and no collective but DDP's own."""
    comm = SingleComm()
    comm.rank, comm.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    comm.settings = allocator.keep_freed_memory()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.distributed.init_process_group("gloo")
    state, pace = _new_state(config, comm, settings["in_memory"])
    if config.train.channels_last:
        for module in (state.model, state.ema.module):
            module.to(memory_format=torch.channels_last)
    watch(state.model, clock)
    model = nn.parallel.DistributedDataParallel(
        TermsOnly(state.model),
        gradient_as_bucket_view=True,
        broadcast_buffers=False,
        static_graph=True,
        bucket_cap_mb=settings["bucket_mb"],
    )
    batches = open_batches(config, comm, pace, largest_stride(state.model), settings["in_memory"])
    computed = [0.0]
    for p in state.model.parameters():
        p.register_post_accumulate_grad_hook(lambda _: computed.__setitem__(0, time.perf_counter()))

    def update() -> int:
        """One update."""
        state.optimizer.zero_grad()
        clock.enter("data")
        batch = next(batches)
        images, targets = batch.to_model(comm.device, torch.float32)
        if not config.train.channels_last:
            images = images.contiguous()
        with autocast(config.train.amp, comm.device):
            total, weight = model(images, targets)
        loss = state.scaler.scale(total / weight.detach().clamp(min=1.0))
        clock.enter("backward")
        loss.backward()
        # DDP waits for its last bucket inside backward(), after the last gradient was computed.
        clock.move(computed[0], "communication")
        clock.enter("optimizer")
        state.scaler.unscale_(state.optimizer)
        limit = config.optim.clip_norm or float("inf")
        nn.utils.clip_grad_norm_(state.model.parameters(), limit)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        clock.enter("other")
        state.updates += 1
        state.ema.update(state.model, state.updates)
        return len(batch)

    return comm, state, update


def _new_state(config: Config, comm: Comm, in_memory: bool) -> tuple[TrainState, Pace]:
    config.train.amp = choose_amp(config.train.amp, "float32", config.model, comm.device)
    train_set = open_dataset(config.data, "train")
    num_classes = NUM_CLASSES if in_memory else len(train_set.names)
    state = new_state(config, num_classes, comm.device)
    return state, make_pace(config, len(train_set), comm.size)


def start_together(folder: Path, count: int) -> None:
    """Returns when `count` processes have come here."""
    (folder / f"ready.{os.getpid()}").touch()
    while len(list(folder.glob("ready.*"))) < count:
        time.sleep(0.01)


def main() -> None:
    """The process of a rank."""
    settings = json.loads(sys.argv[1])
    config = load(sys.argv[2:])
    folder, clock = Path(settings["folder"]), Clock()
    prepare = prepare_ours if settings["side"] == "ours" else prepare_ddp
    comm, state, update = prepare(config, settings, clock)
    if settings["alone"]:
        start_together(folder, settings["alone"])
    for _ in range(settings["warmup"]):
        update()
    clock.restart()
    started = time.perf_counter()
    images = sum(update() for _ in range(settings["steps"]))
    seconds = time.perf_counter() - started
    clock.enter("other")
    phases = clock.seconds.copy()
    if settings["alone"]:
        # The other processes may still be measuring, and not on cores that this one left idle.
        for _ in range(settings["warmup"]):
            update()
    found = {
        "images": images, "seconds": seconds, "phases": phases,
        "amp": config.train.amp, "settings": comm.settings,
        "weights": sum(float(p.detach().double().abs().sum()) for p in state.model.parameters()),
    }  # fmt: skip
    name = os.getpid() if settings["alone"] else comm.rank
    (folder / f"rank{name}.json").write_text(json.dumps(found))
    if settings["side"] == "ddp":
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
