"""Findings and numbers of a data set as text for eyes."""

from collections.abc import Mapping, Sequence
from typing import Any

from hvd_yolo.data.judging import Finding

# Image sizes a split that are listed one by one.
_MOST_SIZES = 3

Numbers = Mapping[str, dict[str, Any]]


def overview(splits: Numbers) -> str:
    """What measure() found in each split, in two tables: the splits, and the classes."""
    columns = ("images", "background", "unreadable", "objects", "crowds")
    rows = [["split", *columns, "image sizes"]]
    for split, numbers in splits.items():
        rows.append([split, *(str(numbers[key]) for key in columns), _sizes(numbers)])
    classes = [["objects (images)", *splits]]
    for name in next(iter(splits.values()))["classes"]:
        cells = [numbers["classes"][name] for numbers in splits.values()]
        classes.append([name, *(f"{cell['objects']} ({cell['images']})" for cell in cells)])
    return f"{_table(rows)}\n\n{_table(classes)}"


def distributions(splits: Numbers) -> str:
    """Areas in COCO's three classes, and quantiles of all else."""
    areas = ("small", "medium", "large")
    rows = [["objects by area", *areas]]
    for split, numbers in splits.items():
        total = max(1, numbers["objects"])
        counts = [numbers["areas"][key] for key in areas]
        rows.append([split, *(f"{count} ({count / total:.1%})" for count in counts)])
    parts = [_table(rows)]
    for key in ("objects_per_image", "widths", "heights", "aspect_ratios"):
        found = {split: numbers[key] for split, numbers in splits.items() if numbers[key]}
        if found:
            heads = list(next(iter(found.values())))
            rows = [[key.replace("_", " "), *heads]]
            rows += [[split, *(f"{v:.4g}" for v in row.values())] for split, row in found.items()]
            parts.append(_table(rows))
    return "\n\n".join(parts)


def findings_text(findings: Sequence[Finding]) -> str:
    """A line a finding with its examples below it, and the sum."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.severity}: {finding.split}: {finding.what}: {finding.count}")
        lines += [f"    {example}" for example in finding.examples]
        if finding.count > len(finding.examples) > 0:
            lines.append(f"    and {finding.count - len(finding.examples)} more")
    num_errors = sum(finding.severity == "error" for finding in findings)
    num_warnings = len(findings) - num_errors
    lines.append(f"{num_errors} kinds of errors, {num_warnings} of warnings")
    return "\n".join(lines)


def _sizes(numbers: dict[str, Any]) -> str:
    sizes = numbers["image_sizes"]
    shown = [f"{size} ({count})" for size, count in list(sizes.items())[:_MOST_SIZES]]
    more = len(sizes) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)
