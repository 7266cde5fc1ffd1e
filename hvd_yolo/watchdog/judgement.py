"""Who keeps the others waiting: a pure function of what the ranks have told."""

from collections.abc import Sequence
from typing import NamedTuple


class Word(NamedTuple):
    """What was last heard of a rank: `silence` seconds ago it had entered `count` collectives, and
    been in `phase`, waiting for other ranks or not, for `age` seconds; has_ended: it has hung
    up."""

    rank: int
    host: str
    silence: float
    count: int
    phase: str
    is_waiting: bool
    age: float
    has_ended: bool


class Verdict(NamedTuple):
    """kind: ended, silent, late, different or network; culprits: ranks; message: for people."""

    kind: str
    culprits: tuple[int, ...]
    message: str


# A process that dies has its launcher to end the others, and to say why.
_SECONDS_AFTER_END = 5.0


def judge(words: Sequence[Word], timeout: float) -> Verdict | None:
    """The verdict, or None while nobody has waited longer than `timeout` seconds for one that
    stands still. A rank that is slow, but gets on with its work, stands not still."""
    ended = [word for word in words if word.has_ended and word.silence > _SECONDS_AFTER_END]
    if ended:
        return _verdict("ended", ended, "has ended without a word while it was in {phase}")
    silent = [word for word in words if word.silence > timeout]
    if silent:
        what = (
            "has given no sign of life for {silence:.0f} s, when it was in {phase}: its process is "
            "stopped, or its host or the way to it is down"
        )
        return _verdict("silent", silent, what)
    return _judge_waits(words, timeout)


def _judge_waits(words: Sequence[Word], timeout: float) -> Verdict | None:
    waiting = [word for word in words if word.is_waiting and _now(word) > timeout]
    if not waiting:
        return None
    furthest = max(word.count for word in waiting)
    late = [word for word in words if word.count < furthest and _now(word) > timeout]
    if late:
        others = next(word.phase for word in waiting if word.count == furthest)
        what = f"has been in {{phase}} for {{age:.0f}} s, while others wait for it in {others}"
        return _verdict("late", late, what)
    if len(waiting) < len(words):
        return None
    if len({word.phase for word in waiting}) > 1:
        return _verdict("different", waiting, "waits in {phase}, others in something else")
    return _verdict("network", waiting, "waits in {phase}, as all do: look at the network")


def _now(word: Word) -> float:
    return word.age + word.silence


def _verdict(kind: str, words: Sequence[Word], what: str) -> Verdict:
    lines = [
        f"rank {word.rank} on {word.host} "
        + what.format(phase=word.phase, silence=word.silence, age=_now(word))
        for word in words
    ]
    return Verdict(kind, tuple(word.rank for word in words), "\n".join(lines))
