"""Taking a network: a copy with plain weights and calls, in which every layer can be quantized.

What a network is given as and what can be quantized in it are not always the same: weights that are
computed from other tensors (`bake`), attention and recurrent modules that compute in one kernel
(`attention`, `recurrent`), transposed convolutions (`frameworks.core.networks.taking.transposed`),
and weights that functions read (`reads`). The taken network computes what the given one does in
evaluation, up to the order of sums.
A network with none of these is taken as it is, without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from frameworks.core.networks.taking import attention, recurrent
from frameworks.core.networks.taking.attention import Attention
from frameworks.core.networks.taking.bake import Baked, bake, computed, copied, keep_mask, mask_of
from frameworks.core.networks.taking.hooks import take_hooks
from frameworks.core.networks.taking.reads import SUFFIX, Read, bare, listen, listens
from frameworks.core.networks.taking.recurrent import CELLS, SEQUENCES, Cell, Recurrent
from frameworks.core.networks.taking.storage import Copies
from frameworks.core.networks.taking.transposed import Transposed, is_transposed

QUANTIZABLE = (nn.Conv1d, nn.Conv2d, nn.Linear)
"""torch's modules that are layers as they are."""
LAYERS = (*QUANTIZABLE, Transposed, Read)
"""The modules of a taken network that are layers."""
_MARK = "_taken"

State = Mapping[str, Tensor]


@dataclass
class Taken:
    """What was changed in a network, so that states of the given one can be read and written.

    Attributes:
        baked: computed tensors.
        rewritten: names of attention and recurrent modules.
        reads: names of layers whose weights functions read.
    """

    baked: list[Baked] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    reads: set[str] = field(default_factory=set)


def taken(model: nn.Module, reads: Iterable[str] = ()) -> nn.Module:
    """The network with plain weights and calls; the argument itself where it has no others.

    Args:
        model: the network as given, or one that is taken already; it is not changed.
        reads: names of layers whose weights functions read (`frameworks.Layer.read`).

    Raises:
        ValueError: a layer's weight is computed in a way that cannot be baked, or is stored in
            another layer, too, in another shape or pruned differently; it is named.
    """
    before = model.__dict__.get(_MARK)
    missing = set(reads) - (before.reads if before else set())
    if not missing and (before or not (computed(model) or any(map(_makes, model.modules())))):
        _check_weights(model)
        return model
    made = copied(model)
    notes: Taken = made.__dict__.get(_MARK) or Taken()
    modes = {module: module.training for module in made.modules()}
    made.eval()
    notes.baked += bake(made)
    made = _rewritten(made, notes)
    for name in sorted(missing):
        made = _with_read(made, name)
    notes.reads |= missing
    if notes.reads and not listens(made):
        listen(made)
    for module, mode in modes.items():
        module.training = mode
    made.__dict__[_MARK] = notes
    _check_weights(made)
    return made


def given_state(network: nn.Module, state: State) -> dict[str, Tensor]:
    """A taken network's state, with the entries that the network as given has for it besides.

    What the given network cannot express (a weight under ``spectral_norm``, say) stays plain only.
    """
    notes: Taken | None = network.__dict__.get(_MARK)
    found = dict(state)
    for name in notes.rewritten if notes else ():
        module, prefix = network.get_submodule(name), f"{name}." if name else ""
        if isinstance(module, Attention):
            found |= attention.given_entries(prefix, state, module)
        else:
            found |= recurrent.given_entries(prefix, state)
    for baked in notes.baked if notes else ():
        found |= baked.express(found[baked.name])
    return found


def given_entries(network: nn.Module) -> dict[str, Tensor]:
    """The entries of the network as given that a taken one's state may have besides its own.

    Also those that its present values cannot be expressed by, as other values may be.
    """
    notes: Taken | None = network.__dict__.get(_MARK)
    own = network.state_dict()
    found = given_state(network, own)
    for baked in notes.baked if notes else ():
        found |= baked.given_entries
    return {name: value for name, value in found.items() if name not in own}


def load_state(network: nn.Module, state: State) -> None:
    """Load a state of a network as it was given, or as it was taken, into a taken one.

    Raises:
        RuntimeError: entries are missing, or fit no tensor.
    """
    notes: Taken | None = network.__dict__.get(_MARK)
    found = dict(state)
    for baked in notes.baked if notes else ():
        if baked.name not in found and set(baked.given_names) <= set(found):
            found[baked.name] = baked.plain(found)
        found = {key: value for key, value in found.items() if key not in baked.given_names}
    for name in notes.rewritten if notes else ():
        room = attention if isinstance(network.get_submodule(name), Attention) else recurrent
        found = {**room.plain_entries(f"{name}." if name else "", found), **found}
    for name in notes.reads if notes else ():
        given_name = name.removesuffix(SUFFIX)
        if given_name != name and given_name in found:
            found.setdefault(f"{name}.weight", found[given_name])
    given = given_entries(network)
    network.load_state_dict({key: value for key, value in found.items() if key not in given})


def swap_module(root: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put a module in the place of a name; returns the root (new if the name is the root)."""
    if not name:
        return module
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)
    return root


def replaced(root: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put a module in the place of another under all of its names; returns the root."""
    for name, module in list(root.named_modules(remove_duplicate=False)):
        if module is old:
            root = swap_module(root, name, new)
    return root


def _makes(module: nn.Module) -> Callable[[Any, Copies], nn.Module] | None:
    """What makes the module that takes the place of one of torch's with torch's own forward."""
    if "forward" in vars(module):
        return None
    if is_transposed(module):
        return Transposed
    if type(module) is nn.MultiheadAttention:
        return Attention
    if type(module) in SEQUENCES:
        return Recurrent
    return Cell if type(module) in CELLS else None


def _rewritten(root: nn.Module, notes: Taken) -> nn.Module:
    copies = _staying(root)
    for name, module in list(root.named_modules()):
        make = _makes(module)
        if make is None:
            continue
        if make is not Transposed:
            notes.rewritten.append(name)
        copies.path = name
        new = make(module, copies)
        take_hooks(new, module)
        root = replaced(root, module, new)
    _without_nested(root)
    return root


def _staying(root: nn.Module) -> Copies:
    """The parameters that lie outside of what is written out: a tie with one of them stays."""
    copies, gone = Copies(), []
    # A module comes before its parts, under each of its names.
    for path, module in root.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        if _makes(module) is not None:
            gone.append(prefix)
        if path.startswith(tuple(gone)) or prefix in gone:
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.dim() > 1:
                layer = isinstance(module, QUANTIZABLE) and name == "weight"
                where = path if layer else f"{prefix}{name}"
                copies.keep(where, parameter, parameter, layer=layer)
    return copies


def _without_nested(root: nn.Module) -> None:
    """Turn off the nested tensors that torch's encoders make of padded batches.

    They are for the fused attention alone; `Attention` asks for shapes, which they do not have.
    """
    for module in root.modules():
        if isinstance(module, nn.TransformerEncoder) and any(
            isinstance(part, Attention) for part in module.modules()
        ):
            module.use_nested_tensor = False


def _with_read(root: nn.Module, name: str) -> nn.Module:
    module = root._modules.get(name) if "." not in name else _at(root, name)
    if module is not None:
        weight, bias = module._parameters["weight"], module._parameters.get("bias")
        assert weight is not None
        read = Read(weight, bias)
        keep_mask(read, mask_of(module))
        # Sizes, strides and the like, which the network may read.
        plain = {k: v for k, v in vars(module).items() if not k.startswith("_")}
        read.__dict__ |= {k: v for k, v in plain.items() if not hasattr(read, k)}
        take_hooks(read, module)
        return replaced(root, module, read)
    owner, attribute = bare(root, name)
    weight = owner._parameters[attribute]
    assert weight is not None
    read = Read(weight)
    keep_mask(read, mask_of(owner, attribute))
    owner.add_module(name.rpartition(".")[2], read)
    return root


def _at(root: nn.Module, name: str) -> nn.Module | None:
    try:
        return root.get_submodule(name)
    except AttributeError:
        return None


def _check_weights(model: nn.Module) -> None:
    """Raise for a layer whose weight is no tensor of its own."""
    for name, module in model.named_modules():
        if not isinstance(module, QUANTIZABLE) or parametrize.is_parametrized(module):
            continue
        if module._parameters.get("weight") is None and "weight" not in module._buffers:
            raise ValueError(
                f"layer {name}: its weight is computed on each call and is no parameter of its "
                "own, in a way that cannot be baked into a plain weight; make it a plain parameter"
            )
