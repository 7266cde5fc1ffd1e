"""The study: which trials there were, what came of them, and which is next. Only rank 0 has it."""

import fcntl
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from hvd_yolo.errors import InputError
from hvd_yolo.tune.space import Space, Value

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger("hvd_yolo.tune")
NAME = "hvd_yolo"
# What the journal keeps of a trial beside Optuna's own.
HOST, BEHIND, REASON = "host", "is behind", "reason"

Outcome = Literal["complete", "pruned", "failed"]


class Rules(NamedTuple):
    """How trials are chosen and ended, as TuneConfig has it."""

    sampler: str
    pruner: str
    min_epochs: int
    reduction: int
    seed: int
    is_lowest_best: bool


class Trial(NamedTuple):
    """A trial that is to run. host: where its folder lies, empty if it has never run."""

    number: int
    parameters: dict[str, Value]
    host: str


@contextmanager
def journal(folder: Path) -> Iterator["optuna.storages.BaseStorage"]:
    """The storage of the study in a folder, study.journal, for this process alone. A line that a
    killed process has not written whole is cut off. Raises InputError where another process has
    it."""
    try:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise InputError("a search needs Optuna: pip install 'hvd_yolo[tune]'") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise InputError(f"--output {folder} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise InputError(
            f"another job is searching in {folder}: wait for its end, or choose another --output"
        ) from error
    file = folder / "study.journal"
    # Optuna's own lock, if its holder was killed.
    file.with_name(f"{file.name}.lock").unlink(missing_ok=True)
    if file.is_file():
        content = file.read_bytes()
        os.truncate(file, content.rfind(b"\n") + 1)
    try:
        yield JournalStorage(JournalFileBackend(str(file)))
    finally:
        os.close(lock)


class Search:
    """Gives trials, hears how they do, and never gives one twice.

    What a trial gets is a function of the seed, its number and the trials before it, so a search
    that goes on repeats no draw.
    """

    def __init__(
        self,
        storage: "optuna.storages.BaseStorage",
        space: Space,
        rules: Rules,
        num_trials: int,
        settings: Mapping[str, Any],
    ) -> None:
        """settings: what all its trials have in common (anything JSON holds); raises InputError
        where the study that goes on has others."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._states = optuna.trial.TrialState
        self._space, self._rules = space, rules
        if rules.sampler == "grid":
            num_trials = min(num_trials, math.prod(len(r.points()) for r in space.values()))
        self.num_trials = num_trials
        direction = "minimize" if rules.is_lowest_best else "maximize"
        self._study = optuna.create_study(
            storage=storage, study_name=NAME, direction=direction, load_if_exists=True,
            pruner=_pruner(rules), sampler=_sampler(rules, space, 0),
        )  # fmt: skip
        self._refuse_changes(settings)
        self._after = optuna.samplers.RandomSampler()
        self._running: dict[int, optuna.Trial] = {}
        self.unfinished: list[Trial] = []
        for found in self.trials():
            if found.state == self._states.RUNNING:
                # A trial draws where it is made.
                self._study.sampler = _sampler(rules, space, found.number)
                self._take_up(optuna.Trial(self._study, found._trial_id))

    @property
    def is_lowest_best(self) -> bool:
        """Whether the lowest value is the best."""
        return self._rules.is_lowest_best

    def trials(self) -> list["optuna.trial.FrozenTrial"]:
        """All there were, by number."""
        return self._study.get_trials(deepcopy=False)

    def best(self) -> "optuna.trial.FrozenTrial | None":
        """Of those that ended by themselves."""
        done = [t for t in self.trials() if t.state == self._states.COMPLETE]
        sign = 1 if self._rules.is_lowest_best else -1
        return min(done, key=lambda t: sign * t.value, default=None)

    def next(self, host: str) -> Trial | None:
        """A trial for a group whose first rank is on that host: one that was not finished, if there
        is one, else a new one; None when there have been all. One with the parameters of an earlier
        one ends here, as that did."""
        if self.unfinished:
            there = [trial for trial in self.unfinished if trial.host == host]
            trial = [*there, *self.unfinished][0]
            self.unfinished.remove(trial)
            self._running[trial.number].set_user_attr(HOST, host)
            return trial
        while (number := len(self.trials())) < self.num_trials:
            self._study.sampler = _sampler(self._rules, self._space, number)
            asked = self._study.ask()
            parameters = self._suggest(asked)
            self._running[asked.number] = asked
            if not self._copy_twin(asked, parameters):
                asked.set_user_attr(HOST, host)
                return Trial(asked.number, parameters, "")
        return None

    def put_back(self, trial: Trial) -> None:
        """It has stopped before its end, and will go on."""
        self.unfinished.append(trial)

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Takes the value of an evaluation; whether the trial is so far behind others that it
        should end. What is known already, of a trial that goes on, changes nothing."""
        trial = self._running[number]
        if epoch in self._frozen(number).intermediate_values:
            return False
        trial.report(value, epoch)
        is_behind = trial.should_prune()
        if is_behind:
            trial.set_user_attr(BEHIND, True)
        return is_behind

    def tell(self, number: int, outcome: Outcome, reason: str = "") -> None:
        """A trial is over; its value is that of its best evaluation."""
        # GridSampler would stop the study at its last point, which is an error outside optimize().
        self._study.sampler = self._after
        trial = self._running.pop(number)
        if reason:
            trial.set_user_attr(REASON, reason)
        values = self._frozen(number).intermediate_values.values()
        values = [value for value in values if math.isfinite(value)]
        if outcome == "pruned":
            self._study.tell(trial, state=self._states.PRUNED)
        elif outcome == "complete" and values:
            best = min(values) if self._rules.is_lowest_best else max(values)
            self._study.tell(trial, best)
        else:
            self._study.tell(trial, state=self._states.FAIL)

    def _frozen(self, number: int) -> "optuna.trial.FrozenTrial":
        return self.trials()[number]

    def _suggest(self, trial: "optuna.Trial") -> dict[str, Value]:
        return {key: values.suggest(trial, key) for key, values in self._space.items()}

    def _take_up(self, trial: "optuna.Trial") -> None:
        """Of a search that was ended: a trial with the parameters it has, where it has them; some
        may be missing, when it was killed while it chose them."""
        self._study.sampler = _sampler(self._rules, self._space, trial.number)
        parameters = self._suggest(trial)
        self._running[trial.number] = trial
        if trial.user_attrs.get(BEHIND):
            self.tell(trial.number, "pruned")
        elif HOST in trial.user_attrs or not self._copy_twin(trial, parameters):
            self.unfinished.append(Trial(trial.number, parameters, trial.user_attrs.get(HOST, "")))

    def _copy_twin(self, trial: "optuna.Trial", parameters: dict[str, Value]) -> bool:
        """Whether there was a trial with the same parameters, which would come to the same: then
        the trial ends with its values."""
        twins = [
            before
            for before in self.trials()[: trial.number]
            if before.params == parameters and before.state != self._states.FAIL
        ]
        if not twins:
            return False
        before = twins[0]
        outcomes: dict[Any, Outcome] = {
            self._states.COMPLETE: "complete", self._states.PRUNED: "pruned",
        }  # fmt: skip
        outcome = outcomes.get(before.state, "failed")
        if outcome != "failed":
            for epoch, value in before.intermediate_values.items():
                trial.report(value, epoch)
        reason = f"the same parameters as trial {before.number}"
        logger.info("trial %d: %s: not run again", trial.number, reason)
        self.tell(trial.number, outcome, reason)
        return True

    def _refuse_changes(self, settings: Mapping[str, Any]) -> None:
        old = self._study.user_attrs.get("settings")
        if old is None:
            self._study.set_user_attr("settings", dict(settings))
            return
        changed = [key for key in settings if old.get(key) != settings[key]]
        if changed:
            key = changed[0]
            raise InputError(
                f"{key} is {settings[key]!r}, but the search in this --output was started with "
                f"{old.get(key)!r}: leave it so, or choose another --output"
            )


def _pruner(rules: Rules) -> "optuna.pruners.BasePruner":
    import optuna

    if rules.pruner == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=rules.min_epochs, reduction_factor=rules.reduction
    )


def _sampler(rules: Rules, space: Space, number: int) -> "optuna.samplers.BaseSampler":
    """A new one for each trial. With one for all, a search that goes on would begin its random
    numbers from the start."""
    import optuna

    if rules.sampler == "grid":
        points = {key: values.points() for key, values in space.items()}
        return optuna.samplers.GridSampler(points, seed=rules.seed)
    seed = int(np.random.SeedSequence((rules.seed, number)).generate_state(1)[0])
    if rules.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if rules.sampler == "gp":
        try:
            import scipy  # noqa: F401 (what the sampler will import)
        except ImportError as error:
            raise InputError("--sampler gp needs SciPy: pip install 'hvd_yolo[tune]'") from error
        return optuna.samplers.GPSampler(seed=seed)
    # Trials that run count as bad ones, or several would be drawn at one place.
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
