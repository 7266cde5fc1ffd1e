"""A plan as a table, as rows for JSON and as a plot."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hvd_yolo.errors import InputError
from hvd_yolo.plan.timing import Cluster, Prediction, Work, best


@dataclass(frozen=True)
class Plan:
    """What was predicted for a training of so many images and epochs, every size with every
    compression; sync_every: as in training."""

    work: Work
    cluster: Cluster
    predictions: Sequence[Prediction]
    num_images: int
    epochs: int
    sync_every: int

    @property
    def sizes(self) -> list[int]:
        """The numbers of ranks, ascending."""
        return sorted({p.size for p in self.predictions})

    def of(self, size: int, compression: str = "", reduction: str = "") -> list[Prediction]:
        """Those of one size, and of one compression and reduction where named."""
        return [
            p
            for p in self.predictions
            if p.size == size
            and compression in ("", p.compression)
            and reduction in ("", p.reduction)
        ]

    def rate(self, p: Prediction) -> float:
        """Images a second of all ranks."""
        return p.size * self.work.images / p.seconds

    @property
    def alone(self) -> float:
        """Seconds of an update of one rank by itself: the step given, or what its images take to
        load."""
        loaded = self.cluster.loader_rate * self.cluster.cores
        return max(self.work.seconds, self.work.images / loaded)

    def efficiency(self, p: Prediction) -> float:
        """Images a second of a rank over those of one rank alone."""
        return self.alone / p.seconds

    def hours(self, p: Prediction) -> float:
        """Of the whole training, evaluation left out."""
        updates = -(-self.num_images // (p.size * self.work.images)) * self.epochs
        return updates * p.seconds / 3600


def rows(plan: Plan) -> list[dict[str, Any]]:
    """Every prediction with its rate, efficiency and hours."""
    return [
        {
            **asdict(p),
            "images_per_s": plan.rate(p),
            "efficiency": plan.efficiency(p),
            "hours": plan.hours(p),
            "is_best": p == best(plan.of(p.size)),
        }
        for p in plan.predictions
    ]


def table(plan: Plan) -> str:
    """A line for each number of ranks: the first compression by ring and by hierarchy, then the
    best."""
    first = plan.predictions[0].compression
    averaged = f", weights averaged every {plan.sync_every} updates" if plan.sync_every > 1 else ""
    head = (
        f"{'':13}| {first}{averaged}: s an update{'':4}|"
        f" best, for {plan.epochs} epochs of {plan.num_images} images\n"
        f"{'ranks':>5} {'hosts':>6} | {'ring':>9} {'hierarchy':>9} {'exposed':>8} |"
        f" {'compression':<11} {'reduction':<12} {'s/update':>9} {'images/s':>9} {'effic.':>6}"
        f" {'MB sent':>8} {'hours':>8}"
    )
    lines = [head]
    for size in plan.sizes:
        ring = plan.of(size, first, "ring")[0]
        nested = plan.of(size, first, "hierarchical")
        chosen = best(plan.of(size))
        hierarchy = f"{nested[0].seconds:9.4f}" if nested else f"{'-':>9}"
        lines.append(
            f"{size:5} {-(-size // plan.cluster.ranks_per_host):6} | {ring.seconds:9.4f} "
            f"{hierarchy} {ring.exposed:8.4f} | {chosen.compression:<11} {chosen.reduction:<12} "
            f"{chosen.seconds:9.4f} {plan.rate(chosen):9.1f} {plan.efficiency(chosen):6.1%} "
            f"{chosen.sent / 1e6:8.2f} {plan.hours(chosen):8.2f}"
        )
    return "\n".join(lines)


def draw(plan: Plan, file: Path) -> None:
    """Images a second and efficiency over ranks, a line for each compression by its better
    reduction."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"{error}; install it: pip install 'hvd_yolo[plots]'") from error
    figure = Figure(figsize=(10, 4), layout="constrained")
    rates, efficiencies = figure.subplots(1, 2)
    sizes = plan.sizes
    alone = plan.work.images / plan.alone
    rates.plot(sizes, [alone * size for size in sizes], "k:", label="no loss")
    for name in dict.fromkeys(p.compression for p in plan.predictions):
        chosen = [best(plan.of(size, name)) for size in sizes]
        rates.plot(sizes, [plan.rate(p) for p in chosen], marker="o", label=name)
        efficiencies.plot(sizes, [plan.efficiency(p) for p in chosen], marker="o", label=name)
    rates.set(xscale="log", yscale="log", xlabel="ranks", ylabel="images/s")
    efficiencies.set(xscale="log", ylim=(0, 1.05), xlabel="ranks", ylabel="efficiency")
    for axes in (rates, efficiencies):
        axes.set_xticks(sizes, map(str, sizes))
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
    rates.legend()
    figure.savefig(file, format="png", dpi=120)
