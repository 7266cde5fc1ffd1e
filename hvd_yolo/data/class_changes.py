"""What to say of two lists of classes that are not the same."""

from collections.abc import Sequence

# Lists up to this length are shown in full.
_MOST_SHOWN = 10


def change_of(before: Sequence[str], after: Sequence[str]) -> str:
    """`the classes were A, B and are B, A`; of long lists, what differs."""
    if max(len(before), len(after)) <= _MOST_SHOWN:
        return f"the classes were {', '.join(before)} and are {', '.join(after)}"
    return f"the {len(before)} classes that were are {len(after)}: {difference(before, after)}"


def difference(before: Sequence[str], after: Sequence[str]) -> str:
    """What is new in the second list, what it lacks, and if it is neither, which stand in another
    place."""
    parts = []
    if added := [name for name in after if name not in set(before)]:
        parts.append(f"{shown(added)} added")
    if removed := [name for name in before if name not in set(after)]:
        parts.append(f"{shown(removed)} removed")
    if not parts:
        pairs = enumerate(zip(before, after, strict=False))
        moved = [f"{place} was {old}, is {new}" for place, (old, new) in pairs if old != new]
        parts.append(f"in another order, class {shown(moved, '; ')}")
    return "; ".join(parts)


def shown(names: Sequence[str], separator: str = ", ") -> str:
    """The names, of many the first and how many more there are."""
    more = len(names) - _MOST_SHOWN
    listed = separator.join(names[:_MOST_SHOWN])
    return f"{listed} and {more} more" if more > 0 else listed


def duplicates(names: Sequence[str]) -> list[str]:
    """The names that stand in the list more than once."""
    return sorted({name for name in names if names.count(name) > 1})
