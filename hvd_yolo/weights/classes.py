"""The classes of a file of weights and those of the data: each output goes to the class of its
name."""

from collections.abc import Sequence

from torch import Tensor, nn

from hvd_yolo.data.class_names import shown
from hvd_yolo.errors import InputError
from hvd_yolo.models import YOLO

State = dict[str, Tensor]


def match_classes(
    tensors: State, model: nn.Module, theirs: Sequence[str], ours: Sequence[str]
) -> str:
    """Puts the class rows of `tensors`, which fit the model, into the order of its classes, and
    returns what there is to say of it; empty where nothing is.

    theirs: the classes of the file, empty where it does not name them; ours: those of the model.
    Rows of a class that the file has not are those of the model. Raises InputError where the order
    differs in a model whose rows are not known.
    """
    if not isinstance(model, YOLO):
        return _say_unknown(theirs, ours)
    layers = _class_tensors(model)
    if not all(name in tensors for name in layers) or list(theirs) == list(ours):
        return ""
    if len(theirs) != len(ours):
        return f"it does not name its {len(ours)} classes: they are taken in their order"
    places = [theirs.index(name) if name in theirs else None for name in ours]
    tensors.update(reordered(tensors, model, places))
    if None not in places:
        return f"its classes are {shown(theirs)}: their rows are put in the order of the data's"
    known = [name for name in ours if name in theirs]
    new = [name for name in ours if name not in theirs]
    taken = f"those of {shown(known)} are taken" if known else "none is taken"
    return f"its classes are {shown(theirs)}: {taken} by name, and {shown(new)} start untrained"


def reordered(tensors: State, model: YOLO, places: Sequence[int | None]) -> State:
    """The tensors of the class layers with class k as class places[k] was; as it is in the model
    where that is None."""
    own = model.state_dict()
    here = [k for k, place in enumerate(places) if place is not None]
    there = [place for place in places if place is not None]
    found = {}
    for name, channels in _class_tensors(model).items():
        every = channels.flatten()
        found[name] = tensors[name].to(own[name].dtype, copy=True)
        found[name][every] = own[name][every].to(found[name])
        found[name][channels[:, here]] = tensors[name][channels[:, there]].to(found[name])
    return found


def _class_tensors(model: YOLO) -> State:
    """Name of a tensor in the model's state to the channels (N, K) of its classes."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: channels
        for layer, channels in model.head.class_rows()
        for parameter in layer.parameters()
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
