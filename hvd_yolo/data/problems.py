"""What the reader of a data set corrected, left out or could not use: counted, with examples."""

import logging
from typing import Literal, NamedTuple

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 5

Severity = Literal["error", "warning"]


class Problem(NamedTuple):
    """One kind of problem, how often it occurred, and its first places.

    An error makes training or its score worthless; a warning may be intended.
    """

    severity: Severity
    what: str
    count: int
    examples: list[str]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.what}: {self.count} ({', '.join(self.examples)}{more})"


class ProblemLog:
    """Counts the problems of one split by kind, in the order in which the kinds first occurred."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Severity, str], int] = {}
        self._examples: dict[tuple[Severity, str], list[str]] = {}

    def add(self, what: str, where: str, severity: Severity = "warning") -> None:
        """Counts one occurrence. what: the kind, which reads well before a count, as `boxes without
        area, left out`; where: the file and line, or the entry."""
        kind = (severity, what)
        self._counts[kind] = self._counts.get(kind, 0) + 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < NUM_EXAMPLES:
            examples.append(where)

    def problems(self) -> list[Problem]:
        """One entry per kind."""
        return [
            Problem(severity, what, count, self._examples[severity, what])
            for (severity, what), count in self._counts.items()
        ]


def log_problems(source: str, problems: list[Problem]) -> None:
    """Logs one line per kind with its first places; source: the file or folder and the split.

    Errors are logged as warnings too: all ranks read the same, and only rank 0 shows warnings.
    """
    for problem in problems:
        prefix = "error: " if problem.severity == "error" else ""
        logger.warning("%s%s: %s", prefix, source, problem)
