"""The plots of a report: each function gives a Plot, or None where the run has no numbers for
it."""
