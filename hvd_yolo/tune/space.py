"""The space that is searched: options of training, each with a list or a range."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hvd_yolo.config import Config, flatten, load
from hvd_yolo.errors import InputError

if TYPE_CHECKING:
    import optuna

Value = str | bool | int | float
# Training options that are not a trial's own choice.
_OWN_FOLDER = ("output", "resume", "override")
_WORDS = {"low", "high", "log", "step"}
_MOST_POINTS = 100_000


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Value, ...]

    def suggest(self, trial: "optuna.Trial", key: str) -> Value:
        """What the sampler takes for `key` in that trial."""
        return trial.suggest_categorical(key, self.values)

    def points(self) -> tuple[Value, ...]:
        """All of them."""
        return self.values

    def extremes(self) -> tuple[Value, ...]:
        """What must be an allowed value for all to be."""
        return self.values


@dataclass(frozen=True)
class Range:
    """From low to high, both included; step 0: everything between. log: each power of ten is as
    likely as the next."""

    low: float
    high: float
    step: float
    log: bool
    is_int: bool

    def suggest(self, trial: "optuna.Trial", key: str) -> Value:
        """What the sampler takes for `key` in that trial."""
        if self.is_int:
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return trial.suggest_int(key, low, high, step=step, log=self.log)
        return trial.suggest_float(key, self.low, self.high, step=self.step or None, log=self.log)

    def points(self) -> tuple[Value, ...]:
        """Those of a grid; none where there is no step."""
        step = self.step or (1 if self.is_int and not self.log else 0)
        if not step:
            return ()
        count = int((self.high - self.low) / step + 1e-9) + 1
        values = [self.low + i * step for i in range(min(count, _MOST_POINTS))]
        return tuple(int(v) if self.is_int else round(v, 12) for v in values)

    def extremes(self) -> tuple[Value, ...]:
        """What must be an allowed value for all to be."""
        return tuple(int(v) if self.is_int else v for v in (self.low, self.high))


Space = Mapping[str, Choice | Range]


def read_space(file: str, is_grid: bool) -> Space:
    """The space of a YAML file; raises InputError that names the key that is wrong. is_grid: each
    must have points to take."""
    if not file:
        raise InputError("--space is missing: a YAML file such as `optim.lr: [0.001, 0.01]`")
    try:
        content = yaml.safe_load(Path(file).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--space {file} cannot be read: {error}") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f"--space {file}: expected a mapping of options to lists or ranges")
    space = {key: _read(file, key, said) for key, said in content.items()}
    without = [key for key, values in space.items() if is_grid and not values.points()]
    if without:
        raise InputError(
            f"{file}: {without[0]}: a grid needs a list or a step; or take another --sampler"
        )
    return space


def check_space(space: Space, fixed: Sequence[str]) -> None:
    """Raises InputError, which names the key, where the options of all trials, or one of them with
    a value of the space, are not what training takes."""
    common = flatten(load(fixed))
    said = [key for key in _OWN_FOLDER if common[key]]
    if said:
        raise InputError(f"--{said[0]} after --: each trial has a folder of its own in --output")
    words = {word.split("=")[0] for word in fixed}
    twice = [key for key in space if f"--{key}" in words]
    if twice:
        raise InputError(f"{twice[0]} is in the space and after --: leave one of them out")
    middle = {key: values.extremes()[0] for key, values in space.items()}
    for key, values in space.items():
        for value in values.extremes():
            try:
                load([*fixed, *options({**middle, key: value})])
            except InputError as error:
                raise InputError(f"{key} {value} of the space: {error}") from error


def options(parameters: Mapping[str, Value]) -> list[str]:
    """The words of a command line."""
    words = []
    for key, value in parameters.items():
        words += [f"--{key}", str(value).lower() if isinstance(value, bool) else str(value)]
    return words


def _read(file: str, key: object, said: Any) -> Choice | Range:  # noqa: ANN401 (whatever YAML holds)
    known = flatten(Config())
    if key not in known or key in _OWN_FOLDER:
        raise InputError(
            f"{file}: {key} is no option that can be searched (python -m hvd_yolo.train --help "
            "lists them, as optim.lr)"
        )
    kind = type(known[key])
    if isinstance(said, list) and said:
        values = tuple(_of(kind, value, f"{file}: {key}") for value in said)
        if len(set(values)) < len(values):
            raise InputError(f"{file}: {key}: a value is there twice in {said}")
        return Choice(values)
    if isinstance(said, dict) and {"low", "high"} <= said.keys() <= _WORDS:
        return _read_range(f"{file}: {key}", kind, said)
    raise InputError(
        f"{file}: {key}: expected a list such as [1, 2], or {{low: 1, high: 2}} with log: true or "
        f"step: 0.5 if wanted, found {said!r}"
    )


def _read_range(where: str, kind: type, said: dict[str, Any]) -> Range:
    if kind not in (int, float):
        raise InputError(f"{where} takes no numbers: give a list of its values")
    low, high = (_of(kind, said[word], f"{where}: {word}") for word in ("low", "high"))
    step = _of(kind, said.get("step", 0), f"{where}: step")
    log = said.get("log", False)
    if not isinstance(log, bool):
        raise InputError(f"{where}: log is {log!r}, it must be true or false")
    if low >= high or step < 0 or step > high - low:
        raise InputError(f"{where}: low {low}, high {high}, step {step} leave nothing to choose")
    if log and (low <= 0 or step):
        raise InputError(f"{where}: log needs a low above 0, and no step")
    return Range(low, high, step, log, kind is int)


def _of(kind: type, value: Any, where: str) -> Value:  # noqa: ANN401 (whatever YAML holds)
    """YAML takes 1e-4 for a word."""
    try:
        if kind is float and not isinstance(value, bool):
            return float(value)
        if kind is int and not isinstance(value, bool) and int(value) == float(value):
            return int(value)
    except (TypeError, ValueError):
        pass
    if kind is str and isinstance(value, int | float):
        value = str(value)
    if type(value) is not kind:
        raise InputError(f"{where}: {value!r} is not of the option's kind, {kind.__name__}")
    return value
