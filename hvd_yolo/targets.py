"""The objects of a batch as padded tensors, which losses read without a host-device
synchronization."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hvd_yolo.padding import padded_length


class PaddedTargets(Sequence[dict[str, Tensor]]):
    """The objects of B images, M of each image at most; as a sequence, one dict an image with
    "boxes" (N, 4) and "labels" (N), as a Detector takes it.

    boxes (B, M, 4): xyxy in input pixels; labels (B, M) int64; counts (B) int64: objects of each
    image, on the device; num_objects: the same on the host. Behind an image's objects are zeros.
    """

    def __init__(
        self, boxes: Tensor, labels: Tensor, counts: Tensor, num_objects: Sequence[int]
    ) -> None:
        self.boxes = boxes
        self.labels = labels
        self.counts = counts
        self.num_objects = list(num_objects)

    def is_real(self) -> Tensor:
        """(B, M) bool: True where there is an object, False for padding."""
        places = torch.arange(self.labels.shape[1], device=self.labels.device)
        return places < self.counts[:, None]

    def __len__(self) -> int:
        return len(self.num_objects)

    def __getitem__(self, index):  # noqa: ANN001, ANN204 (as list's)
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        count = self.num_objects[index]
        return {"boxes": self.boxes[index, :count], "labels": self.labels[index, :count]}


def pad_targets(
    targets: Sequence[dict[str, Tensor]], dtype: torch.dtype, device: torch.device
) -> PaddedTargets:
    """The targets in `dtype` on `device`, padded; those that are padded already stay so."""
    if isinstance(targets, PaddedTargets):
        return PaddedTargets(
            targets.boxes.to(device, dtype), targets.labels.to(device),
            targets.counts.to(device), targets.num_objects,
        )  # fmt: skip
    num_objects = [len(target["boxes"]) for target in targets]
    most = padded_length(num_objects)
    boxes = torch.zeros(len(targets), most, 4, dtype=dtype, device=device)
    labels = torch.zeros(len(targets), most, dtype=torch.long, device=device)
    for i, (target, count) in enumerate(zip(targets, num_objects, strict=True)):
        boxes[i, :count] = target["boxes"]
        labels[i, :count] = target["labels"]
    counts = torch.tensor(num_objects, dtype=torch.long).to(device)
    return PaddedTargets(boxes, labels, counts, num_objects)
