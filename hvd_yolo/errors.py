"""What is told to the user in one message with exit code 2: a fault in the config, the data or the
launch."""

# Of a run whose losses are no numbers any more.
AGAINST_DIVERGENCE = "a lower optim.lr, a longer optim.warmup_epochs or --train.amp none may help"


class InputError(Exception):
    """Something the user gave cannot be used; the text names it and says what to do.

    `rank` is None when every rank raises the same error, so that rank 0 alone speaks; a rank that
    is alone with its error (an unreadable share of the data, say) puts its own number there and is
    heard.
    """

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank


class OptionError(InputError):
    """Options that no launch, or not this one, can serve: nothing is wrong with the hosts."""


class Stopped(Exception):
    """The run was asked to stop, and all that it has come to is saved: exit code 75.

    is_alone: the other ranks have not agreed, and end with this one.
    """

    def __init__(self, message: str, is_alone: bool = False) -> None:
        super().__init__(message)
        self.is_alone = is_alone


class MissingSplit(InputError):
    """A data set that has no split of the name asked for; it may have others."""


class SplitNotThere(InputError):
    """A split that a data set names and whose images or labels are not there."""
