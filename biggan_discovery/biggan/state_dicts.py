"""Find a generator in the content of a file of weights, whatever it is wrapped in.

Trainers save a generator's tensors under names of their own: `module.` (DataParallel), `_orig_mod.` (torch.compile),
`G.` or `generator.` (a module of several networks), in a dictionary beside the discriminator, the optimisers and an
average of the generator's weights. Here the generator is told by names that it alone has, whatever stands before them.
"""

import collections
import itertools
import re

import torch

from experiment_utils.errors import SnapshotError

NETWORKS = {  # names of tensors that only this network has, all of them
    "biggan": ("shared.weight", "linear.weight"),
    "biggan_deep": ("generator.gen_z.weight_orig",),
}
DISCRIMINATOR = ("embed.weight", "linear.weight")
WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # PyTorch's own, anywhere
# What words in a place say of the weights there; of several, the innermost counts.
AVERAGED = re.compile(r"(^|_)(ema|swa|avg|averaged?|g_running)(_|$)|^(shadow|gs)$")
NOT_AVERAGED = re.compile(r"(^|_)(online|current|raw)(_|$)")
NO_WEIGHTS = re.compile(r"optim|exp_avg|square_avg|momentum|(^|_)(adam|sgd|grads?)(_|$)")  # of an optimiser's state
MAX_DEPTH = 4  # of dictionaries in dictionaries
MAX_LISTED = 6  # parts of a file in a message

Weights = collections.namedtuple("Weights", "place network state rank beside")
Weights.__doc__ = """The weights of one generator within a file.

    place     what stands before the names, such as "G_ema" or "state_dict.generator"; "": nothing
    network   key of NETWORKS            state     {name: tensor}, named as the network names them
    rank      2: an average of the weights over training, 1: nothing says so, 0: said to be the present ones beside it
    beside    places of other tensors in the file, as words; "": there are none
"""


def find_weights(content, where):
    """Return the Weights of the generator in a file's content; an average of a generator comes before itself.

    Raises SnapshotError, beginning with `where`, for no generator, or several of which none is an average.
    """
    found = list(_generators({WRAPPERS.sub("", name): value for name, value in _flattened(content)}))
    if not found:
        raise SnapshotError(f"{where}: not the weights of a generator; it looks like {looks_like(content)}")
    best = max(weights.rank for weights in found)
    chosen = [weights for weights in found if weights.rank == best]
    if not all(_equal(chosen[0].state, other.state) for other in chosen[1:]):
        places = _listed([weights.place or "one without a name" for weights in chosen])
        raise SnapshotError(f"{where}: holds several generators ({places}); save the state_dict() of one of them alone")
    return chosen[0]


def _equal(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def _flattened(content, place="", depth=0, seen=None):
    """Yield (name, tensor) of nested dictionaries, the names as if there were one: "G_ema.linear.weight".

    A list of tensors has no names and comes as a whole.
    """
    seen = set() if seen is None else seen
    if not isinstance(content, dict) or id(content) in seen or depth > MAX_DEPTH:
        return
    seen.add(id(content))
    for name, value in content.items():
        if not isinstance(name, str):
            continue
        if torch.is_tensor(value) or (isinstance(value, list) and value and torch.is_tensor(value[0])):
            yield place + name, value
        else:
            yield from _flattened(value, f"{place}{name}.", depth + 1, seen)


def _generators(values):
    """Yield the Weights of every generator among {name: tensor}."""
    for network, marks in NETWORKS.items():
        for prefix in _prefixes(values, marks):
            words = prefix.split(".")[:-1]
            if any(NO_WEIGHTS.search(word.lower()) for word in words):
                continue
            tensors = {name: value for name, value in values.items() if torch.is_tensor(value)}
            state = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            # torch.optim.swa_utils.AveragedModel counts beside the module that it averages.
            counters = {".".join([*words[:i], "n_averaged"]) for i, word in enumerate(words) if word == "module"}
            rank = 2 if counters & values.keys() else _rank(words)
            rest = [name for name in values if name not in counters and not name.startswith(prefix)]
            place = ".".join(words)
            yield Weights(place, network, state, rank, _listed(_branches(rest, place)))


def _rank(words):
    """Return the rank, as Weights have it, of weights whose place has these words."""
    for word in reversed(words):
        word = re.sub("([a-z])([A-Z])", r"\1_\2", word).lower()  # generatorEMA
        if NOT_AVERAGED.search(word):
            return 0
        if AVERAGED.search(word):
            return 2
    return 1


def _branches(names, place):
    """Return where names part from a place: "state_dict.D.fc.weight" from "state_dict.G" at "state_dict.D"."""
    branches = []
    for words in (name.split(".") for name in names):
        shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(words, place.split(".")))
        branches.append(".".join(words[: len(list(shared)) + 1]))
    return list(dict.fromkeys(branches))


def _prefixes(names, marks):
    """Return what stands before all of `marks` in the names: "" or words that end in a dot each."""
    ends = [name[: -len(marks[0])] for name in names if name.endswith(marks[0])]
    prefixes = [end for end in ends if not end or end.endswith(".")]
    return [prefix for prefix in prefixes if all(prefix + mark in names for mark in marks)]


def _listed(names, separator=", "):
    return separator.join(names[:MAX_LISTED]) + (f"{separator}…" if len(names) > MAX_LISTED else "")


# ----------------------------------------------------------------------------------------------------------------------
# What is no generator


def looks_like(content, depth=0):
    """Say what the content of a file seems to be that is no generator."""
    if torch.is_tensor(content):
        return f"directions, a tensor {list(content.shape)} (give it to --load_A)"
    names = [WRAPPERS.sub("", name) for name in content if isinstance(name, str)] if isinstance(content, dict) else []
    if not names:
        return f"a {type(content).__name__}"
    if {"state", "param_groups"} <= set(names):
        return "an optimiser's state"
    if _prefixes(names, DISCRIMINATOR):
        return "a BigGAN discriminator"
    if any(name.startswith(("G/", "D/", "Gs/")) for name in names):
        return "a state of this project's ProGAN (give a network-snapshot-*.safetensors)"
    if any(name.startswith("factor0") for name in names):
        return "a factor regressor"
    if any("mapping." in name or "style." in name for name in names):
        return "a StyleGAN (write a factory for it: module:factory)"
    nested = [(name, value) for name, value in content.items() if isinstance(name, str) and isinstance(value, dict)]
    if nested and depth < MAX_DEPTH:
        parts = [f"{name}, {looks_like(value, depth + 1)}" for name, value in nested]
        return f"a checkpoint of several things ({_listed(parts, '; ')})"
    tensors = [(name, value) for name, value in content.items() if torch.is_tensor(value)]
    if not tensors:
        return f"a training record ({_listed(names)})"
    words = _branches([name for name, _ in tensors], "")
    parts = f", of the parts {_listed(words)}" if len(words) > 1 else ""
    name, tensor = tensors[0]
    return f"another network{parts}, whose first tensor is {name} {list(tensor.shape)}"
