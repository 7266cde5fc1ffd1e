"""Which prediction answers for which object, of a whole batch at once.

Nothing here waits for the device: every size is known on the host from the shapes, and places are
integers, not masks. The tables of objects times points (B, M, A) are the largest tensors of a
training step; they are made for a few images at a time, in memory that is used again.
"""

from hvd_yolo.models.assigners.anchor_matching import Matches, match_anchors
from hvd_yolo.models.assigners.operators import assign_aligned, assign_cells
from hvd_yolo.models.assigners.optimal_transport import MAX_CELLS, Transport, optimal_transport
from hvd_yolo.models.assigners.owners import places_of
from hvd_yolo.models.assigners.task_aligned import Assignment, task_aligned

__all__ = [
    "MAX_CELLS", "Assignment", "Matches", "Transport", "assign_aligned", "assign_cells",
    "match_anchors", "optimal_transport", "places_of", "task_aligned",
]  # fmt: skip
