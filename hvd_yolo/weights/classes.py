"""The classes of a file of weights and those of the data: each output goes to the class of its
name."""

from collections.abc import Sequence

from torch import Tensor, nn

from hvd_yolo.data.class_changes import shown
from hvd_yolo.errors import InputError
from hvd_yolo.models import YOLO
from hvd_yolo.models.class_rows import ClassRows

State = dict[str, Tensor]


def match_classes(
    fitting: State,
    tensors: State,
    model: nn.Module,
    theirs: Sequence[str],
    ours: Sequence[str],
) -> str:
    """Gives each class of the model the rows of the class of its name, and returns what there is to
    say of it; empty where nothing is.

    tensors: those of a file under the model's names; fitting: of them what the model takes, which
    is changed; theirs: the classes of the file, empty where it does not name them; ours: those of
    the model. Rows of a class that the file has not are those of the model. Raises InputError where
    the order differs in a model whose rows are not known.
    """
    if not isinstance(model, YOLO):
        return _say_unknown(theirs, ours)
    if list(theirs) == list(ours):
        return ""
    places = [theirs.index(name) if name in theirs else None for name in ours]
    is_worth = len(theirs) == len(ours) or any(place is not None for place in places)
    found = reordered(tensors, model, places, len(theirs)) if theirs and is_worth else {}
    if not found:
        is_taken = all(name in fitting for name in _class_tensors(model))
        told = f"it does not name its {len(ours)} classes: they are taken in their order"
        return told if is_taken else ""
    fitting.update(found)
    if set(theirs) == set(ours):
        return f"its classes are {shown(theirs)}: their rows are put in the order of the data's"
    known = [name for name in ours if name in theirs]
    new = [name for name in ours if name not in theirs]
    told = f"its classes are {shown(theirs)}: "
    told += f"those of {shown(known)} are taken by name" if known else "none has a name of the data"
    return f"{told}, and {shown(new)} start untrained" if new else told


def reordered(tensors: State, model: YOLO, places: Sequence[int | None], num_classes: int) -> State:
    """The tensors of class layers, made for `num_classes`, with class k as class places[k] was, or
    as it is in the model where that is None; without those that do not fit."""
    own = model.state_dict()
    here = [k for k, place in enumerate(places) if place is not None]
    there = [place for place in places if place is not None]
    found = {}
    for name, rows in _class_tensors(model).items():
        shape = (rows.num_channels(num_classes), *own[name].shape[1:])
        if name not in tensors or tensors[name].shape != shape:
            continue
        (new, new_others), (old, old_others) = map(rows.channels, (len(places), num_classes))
        value = own[name].clone()
        value[new[:, here]] = tensors[name][old[:, there]].to(value)
        value[new_others] = tensors[name][old_others].to(value)
        found[name] = value
    return found


def _class_tensors(model: YOLO) -> dict[str, ClassRows]:
    """The tensors of the model's state, by name, that have rows of classes."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: rows
        for rows in model.head.class_rows()
        for parameter in rows.layer.parameters()
    }


def _say_unknown(theirs: Sequence[str], ours: Sequence[str]) -> str:
    if len(theirs) != len(ours) or list(theirs) == list(ours):
        return ""
    if set(theirs) == set(ours):
        raise InputError(
            f"its classes are {shown(theirs)}, those of the data {shown(ours)}; which outputs of "
            "this model belong to them is not known, so give the data's `names` that order"
        )
    return (
        f"its classes are {shown(theirs)}, those of the data {shown(ours)}; its outputs are taken "
        "as they stand, for which belong to a class is not known of this model"
    )
