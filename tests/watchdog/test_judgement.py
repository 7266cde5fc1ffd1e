"""Who is named, by what the ranks have told."""

import pytest

from hvd_yolo.watchdog.judgement import Word, judge

TIMEOUT = 10.0


def word(rank, count=7, phase="an update", age=0.0, waits=False, silence=0.5, has_ended=False):
    return Word(rank, f"node{rank}", silence, count, phase, waits, age, has_ended)


def waiting(rank, count=8, phase="the sum of gradients", age=30.0):
    return word(rank, count, phase, age, waits=True)


@pytest.mark.parametrize(
    "words",
    [
        [word(0), word(1)],
        # A rank that is slow keeps the others waiting, but gets on.
        [waiting(0), waiting(1), word(2, age=3.0)],
        # All came to the same sum a moment ago.
        [waiting(0, age=2.0), waiting(1, age=1.0)],
        # Long at work, while nobody waits for it: a save, say.
        [word(0, age=500.0), word(1, age=1.0)],
        # The others left the collective that one is only now leaving.
        [waiting(0, age=30.0), word(1, count=8, age=1.0)],
    ],
)
def test_nobody_is_named_while_all_get_on(words):
    assert judge(words, TIMEOUT) is None


@pytest.mark.parametrize(
    ("words", "kind", "culprits", "said"),
    [
        (
            [waiting(0), word(1, phase="loading images", age=29.0), waiting(2)],
            "late", (1,), "rank 1 on node1 has been in loading images for 30 s, while others wait",
        ),
        ([waiting(0), word(1, silence=20.0)], "silent", (1,), "no sign of life for 20 s"),
        (
            [waiting(0, count=9, phase="a gather"), waiting(1, count=8)],
            "late", (1,), "has been in the sum of gradients",
        ),
        (
            [waiting(0, phase="a gather"), waiting(1, phase="a barrier")],
            "different", (0, 1), "rank 1 on node1 waits in a barrier, others in something else",
        ),
        ([waiting(0), waiting(1)], "network", (0, 1), "look at the network"),
        ([word(0), word(1, silence=6.0, has_ended=True)], "ended", (1,), "ended without a word"),
    ],
)  # fmt: skip
def test_the_one_that_stands_still_is_named(words, kind, culprits, said):
    verdict = judge(words, TIMEOUT)
    assert (verdict.kind, verdict.culprits) == (kind, culprits)
    assert said in verdict.message
