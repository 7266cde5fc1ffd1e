"""The study gives each trial once, goes on after a kill, and searches better than chance."""

import math

import optuna
import pytest

from hvd_yolo.errors import InputError
from hvd_yolo.tune.search import Rules, Search, journal
from hvd_yolo.tune.space import Choice, Range

RULES = Rules("random", "none", 1, 3, 0, False)
SPACE = {
    "optim.lr": Range(1e-4, 1e-1, 0, True, False),
    "optim.momentum": Range(0.5, 1.0, 0, False, False),
    "augment.mosaic": Range(0.0, 1.0, 0.05, False, False),
    "augment.close_mosaic": Range(0, 20, 0, False, True),
}
SMALL = {"imgsz": Choice((64, 96, 128)), "epochs": Choice((1, 2, 3))}


def score(parameters):
    """A smooth hill of four dimensions; the top is 0."""
    lr, momentum, mosaic, close = (parameters[key] for key in SPACE)
    distances = ((math.log10(lr) + 2.3) / 3, (momentum - 0.9) * 2, mosaic - 0.3, (close - 6) / 20)
    return -sum(distance**2 for distance in distances)


def in_memory(space, rules, num_trials):
    return Search(optuna.storages.InMemoryStorage(), space, rules, num_trials, {})


def found(sampler, seed, num_trials=60):
    """The best of a search by that sampler, four trials at a time as four groups have them."""
    search = in_memory(SPACE, RULES._replace(sampler=sampler, seed=seed), num_trials)
    while batch := [trial for _ in range(4) if (trial := search.next("a"))]:
        for trial in batch:
            search.report(trial.number, 1, score(trial.parameters))
            search.tell(trial.number, "complete")
    return search.best().value


def test_tpe_beats_random_in_eight_of_ten_seeds():
    wins = [found("tpe", seed) > found("random", seed) for seed in range(10)]
    assert sum(wins) >= 8, wins


@pytest.mark.long
def test_gp_beats_random():
    assert found("gp", 0, 20) > found("random", 0, 20)


def test_a_grid_is_each_of_its_points_once():
    search = in_memory(SMALL, RULES._replace(sampler="grid"), 40)
    trials = []
    while trial := search.next("a"):
        trials.append(tuple(trial.parameters.items()))
        search.report(trial.number, 1, 0.5)
        search.tell(trial.number, "complete")
    assert len(set(trials)) == len(trials) == 9


def test_the_same_parameters_are_not_run_twice():
    search = in_memory(SMALL, RULES, 60)
    ran = []
    while trial := search.next("a"):
        ran.append(tuple(trial.parameters.items()))
        search.report(trial.number, 1, trial.parameters["imgsz"])
        search.tell(trial.number, "complete")
    assert len(search.trials()) == 60
    assert len(set(ran)) == len(ran) == 9
    assert all(trial.value == trial.params["imgsz"] for trial in search.trials())


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
def test_a_search_that_is_killed_at_any_byte_goes_on_and_repeats_nothing(tmp_path, sampler):
    rules = RULES._replace(sampler=sampler)
    space = SMALL if sampler == "grid" else SPACE
    first = next(iter(space))

    def go_on(folder):
        """The numbers of trials that ran in this start, and all there were."""
        ran = []
        with journal(folder) as storage:
            search = Search(storage, space, rules, 5, {})
            while trial := search.next("a"):
                ran.append(trial.number)
                search.report(trial.number, 1, trial.parameters[first])
                search.tell(trial.number, "complete")
            return ran, [trial.params for trial in search.trials()]

    ran, whole = go_on(tmp_path / "whole")
    assert ran == [0, 1, 2, 3, 4]
    content = (tmp_path / "whole" / "study.journal").read_bytes()
    for cut in range(0, len(content), 397):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "study.journal").write_bytes(content[:cut])
        (folder / "study.journal.lock").symlink_to("study.journal")
        over = content[: content[:cut].rfind(b"\n") + 1].count(b'"values"')
        ran, trials = go_on(folder)
        assert ran == [0, 1, 2, 3, 4][over:]
        # One that had not all of its parameters yet may get others.
        assert trials[:over] == whole[:over]
        assert len({tuple(sorted(found.items())) for found in trials}) == len(trials) == 5


def test_asha_ends_what_is_behind_and_keeps_what_leads():
    search = in_memory(SPACE, RULES._replace(pruner="asha"), 9)
    trials = [search.next("a") for _ in range(9)]
    behind = [search.report(trial.number, 1, -trial.number) for trial in trials]
    assert behind == [False, *[True] * 8]
    again = [search.report(trial.number, 1, 1.0) for trial in trials]
    assert not any(again), "a value that is known already"


def test_a_trial_without_a_finite_value_has_failed():
    search = in_memory(SPACE, RULES, 2)
    for value in (math.nan, 0.5):
        trial = search.next("a")
        search.report(trial.number, 1, value)
        search.report(trial.number, 2, 0.25)
        search.tell(trial.number, "complete" if value == 0.5 else "failed", "diverged")
    assert [trial.state.name for trial in search.trials()] == ["FAIL", "COMPLETE"]
    assert search.best().value == 0.5


def test_two_jobs_and_other_settings_are_refused(tmp_path):
    with journal(tmp_path) as storage:
        Search(storage, SPACE, RULES, 5, {"--metric": "AP"})
        with pytest.raises(InputError, match="another job is searching"), journal(tmp_path):
            pass
    with journal(tmp_path) as storage, pytest.raises(InputError, match="--metric is 'AP50', but"):
        Search(storage, SPACE, RULES, 5, {"--metric": "AP50"})
