"""The reference's network pickles: all variables arrive, the images are those of the weights, and nothing executes."""

import collections
import io
import os
import pickle
import pickletools
import struct
import sys
import types

import numpy as np
import numpy_progan
import pickle_assembler as code
import pytest
from closeness import AMPLIFIED, assert_close
from pickle_assembler import Assembler, network_pickle
from PIL import Image
from progan_helpers import load_command, random_networks

from experiment_utils.errors import SnapshotError, run_command
from progan.inference import TrainedGenerator
from progan.networks import NetworkSpec
from progan.pickles import is_pickle
from progan.snapshot import Snapshot, list_snapshots, load_snapshot, save_snapshot

SPEC = NetworkSpec(resolution=16, channels=3, nz=5, fmap_base=24, fmap_max=8, infogan_nz=2)
NAMED = {"resolution": 16, "num_channels": 3, "latent_size": 5, "fmap_base": 24, "fmap_max": 8, "fused_scale": True}
PROTOCOLS = [2, 3, 4, 5]


def write(path, content):
    path.write_bytes(content)
    return str(path)


@pytest.fixture
def path(tmp_path):
    """A good file, of networks in the middle of a fade-in."""
    return write(tmp_path / "simple_ft.pkl", network_pickle(random_networks(SPEC), 1.25, **NAMED))


def same(networks, expected):
    assert set(networks) == set(expected) == {"G", "D", "Gs"}
    for net, weights in expected.items():
        assert set(networks[net]) == set(weights)
        for name, value in weights.items():
            found = networks[net][name]
            assert found.dtype == np.float32 and found.shape == value.shape and found.tobytes() == value.tobytes()


# ----------------------------------------------------------------------------------------------------------------------
# What a good file gives


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_all_variables_arrive_bit_for_bit(tmp_path, protocol):
    path = write(tmp_path / "a.pkl", network_pickle(random_networks(SPEC), 1.25, protocol, **NAMED))
    if protocol > pickle.HIGHEST_PROTOCOL:  # Python 3.7 and protocol 5
        with pytest.raises(SnapshotError, match=r"a\.pkl: written with pickle protocol 5, .*; open it with a newer Py"):
            load_snapshot(path)
        return
    snapshot = load_snapshot(path)
    same(snapshot.networks, random_networks(SPEC))
    assert (snapshot.spec, snapshot.lod, snapshot.options, snapshot.state_name) == (SPEC, 1.25, {}, None)


@pytest.mark.parametrize("lod, resolution, fade", [(0, 16, None), (1.25, 8, 0.25), (2, 4, None)])
def test_images_are_those_of_the_weights(tmp_path, lod, resolution, fade):
    """Layouts included (the dense layer channel-major, kernels as they lie): truth is a forward pass in NumPy."""
    networks, z = random_networks(SPEC, seed=3), np.random.RandomState(1).standard_normal([4, 5])
    with TrainedGenerator(load_snapshot(write(tmp_path / "a.pkl", network_pickle(networks, lod)))) as generator:
        found = generator(z, dtype=np.float32)
    weights = {name: value.astype(np.float64) for name, value in networks["Gs"].items()}
    expected, _ = numpy_progan.generator(weights, z, resolution, 16, fade)
    expected = expected.repeat(16 // resolution, axis=1).repeat(16 // resolution, axis=2)
    assert_close(found, expected, within=AMPLIFIED)


def test_the_level_of_detail_is_that_of_the_averaged_generator(tmp_path):
    lods = {"G": 0.5, "D": 0.25, "Gs": 0.75}

    def change(networks):
        for net, lod in lods.items():
            networks[net]["lod"] = np.float32(lod)

    assert load_snapshot(write(tmp_path / "a.pkl", changed(change))).lod == 0.75
    lods = {"G": 0.5, "D": 0.25}
    without = changed(lambda networks: [change(networks), networks["Gs"].pop("lod")])
    assert load_snapshot(write(tmp_path / "a.pkl", without)).lod == 0.5


class Network:
    """Stands in for the reference's class: the same state, as its own unpickling would see it."""

    def __init__(self, state):
        self.state = state

    def __getstate__(self):
        return self.state

    def __setstate__(self, state):
        self.state = state


class EasyDict(dict):
    """Stands in for dnnlib's dictionary."""


@pytest.fixture
def dnnlib(monkeypatch):
    """Modules of the names that such files refer to."""
    for name in ("dnnlib", "dnnlib.util", "dnnlib.tflib", "dnnlib.tflib.network"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for stand_in, name in ((Network, "dnnlib.tflib.network"), (EasyDict, "dnnlib.util")):
        monkeypatch.setattr(stand_in, "__module__", name)
        monkeypatch.setattr(sys.modules[name], stand_in.__name__, stand_in, raising=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # numpy.core has another name in NumPy 2
@pytest.mark.parametrize("protocol", [p for p in PROTOCOLS if p <= pickle.HIGHEST_PROTOCOL])
def test_the_assembled_files_are_pickles_as_python_reads_them(dnnlib, protocol):
    networks = pickle.loads(network_pickle(random_networks(SPEC), 1.25, protocol, **NAMED))
    assert [type(network) for network in networks] == [Network] * 3
    for network, (name, weights) in zip(networks, [(net, random_networks(SPEC)[net]) for net in ("G", "D", "Gs")]):
        variables = dict(network.state["variables"])
        assert network.state["name"] == name and network.state["version"] == 3
        assert network.state["static_kwargs"] == NAMED and type(network.state["static_kwargs"]) is EasyDict
        assert variables.pop("lod") == 1.25 and set(variables) == set(weights)
        assert all(np.array_equal(variables[key], value) for key, value in weights.items())


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_what_pythons_own_pickler_makes_of_the_stand_ins(dnnlib, tmp_path, protocol):
    networks = random_networks(SPEC)
    states = []
    for net in ("G", "D", "Gs"):
        variables = [("lod", np.float32(1.25)), *networks[net].items()]
        states.append({"version": 3, "name": net, "static_kwargs": EasyDict(NAMED), "variables": variables})
    content = pickle.dumps(tuple(map(Network, states)), protocol)
    snapshot = load_snapshot(write(tmp_path / "a.pkl", content))
    same(snapshot.networks, networks)
    assert (snapshot.spec, snapshot.lod) == (SPEC, 1.25)


def test_arrays_in_columns_other_types_and_a_critic_without_lod(tmp_path):
    """NumPy stores a transposed array as it lies; halves and doubles become float32, scalars may be plain numbers."""
    networks = random_networks(SPEC)
    networks["G"]["4x4/Dense/weight"] = np.asfortranarray(networks["G"]["4x4/Dense/weight"])
    networks["G"]["4x4/Conv/bias"] = networks["G"]["4x4/Conv/bias"].astype(np.float64)
    networks["Gs"]["4x4/Conv/bias"] = networks["Gs"]["4x4/Conv/bias"].astype(np.float16)
    assemble = Assembler()
    variables = {net: dict({"lod": 0.5}, **networks[net]) for net in ("G", "D", "Gs")}
    del variables["D"]["lod"]
    parts = [assemble.network(net, variables[net]) for net in ("G", "D", "Gs")]
    content = assemble.file(b"".join(parts) + code.TUPLE3)
    snapshot = load_snapshot(write(tmp_path / "a.pkl", content))
    same(snapshot.networks, {n: {k: v.astype(np.float32) for k, v in w.items()} for n, w in networks.items()})
    assert snapshot.lod == 0.5


@pytest.mark.parametrize(
    "spec, named, found",
    [
        (SPEC, {}, (24, 8)),
        (SPEC, {"fmap_base": 25, "fmap_max": 8}, (25, 8)),  # gives the same widths: the file's own word
        (SPEC, {"fmap_base": 99, "fmap_max": 8}, (24, 8)),  # does not
        (SPEC, {"fmap_base": 2**80, "fmap_max": "8"}, (24, 8)),
        (NetworkSpec(16, 1, 3, 26, 100), {}, (26, 13)),  # odd numbers, and no cap in effect
        (NetworkSpec(32, 3, 12, 64, 4), {}, (64, 4)),  # capped everywhere but at the end
        (NetworkSpec(16, 3, 12, 512, 8), {}, (64, 8)),  # capped everywhere: any base from there on
        (NetworkSpec(16, 3, 12, 2, 8), {}, (1, 1)),
        (NetworkSpec(4, 3, 2, 16, 512), {"fmap_base": 16}, (16, 512)),
        (NetworkSpec(4, 3, 2, 8192, 512), None, (8192, 512)),  # as published, and nothing said
    ],
)
def test_sizes_are_read_off_the_shapes(tmp_path, spec, named, found):
    small = {name: value for name, value in (named or {}).items() if isinstance(value, str) or value < 2**31}
    networks = random_networks(spec) if named is not None else zeros(spec)
    snapshot = load_snapshot(write(tmp_path / "a.pkl", network_pickle(networks, 0, **small)))
    read = snapshot.spec
    assert (read.resolution, read.channels, read.nz, read.infogan_nz) == (
        spec.resolution,
        spec.channels,
        spec.nz,
        spec.infogan_nz,
    )
    assert (read.fmap_base, read.fmap_max) == found
    assert [read.width(res) for res in (4, 8, 16)] == [spec.width(res) for res in (4, 8, 16)]


def zeros(spec):
    return {net: {name: np.zeros_like(value) for name, value in w.items()} for net, w in random_networks(spec).items()}


@pytest.mark.parametrize(
    "name, lod, kimg",
    [
        ("simple_ft.pkl", 0, 2400),  # 16 px: grown twice, each over 600 + 600
        ("simple_ft.pkl", 1.25, 600 + 450),
        ("simple_ft.pkl", 1, 1200),
        ("simple_ft.pkl", 2, 0),
        ("network-snapshot-010080.pkl", 0, 10080),
        ("network-snapshot-000080.pkl", 0, 2400),  # grew faster than published: going on must not shrink it
    ],
)
def test_how_many_images_were_shown(tmp_path, name, lod, kimg):
    snapshot = load_snapshot(write(tmp_path / name, network_pickle(random_networks(SPEC), lod)))
    assert snapshot.images_shown == kimg * 1000 and snapshot.lod == lod


def test_pickles_are_known_by_their_content(tmp_path, path):
    disguised = write(tmp_path / "network-snapshot-000001.safetensors", open(path, "rb").read())
    assert load_snapshot(disguised).spec == SPEC
    ours = str(tmp_path / "ours.pkl")
    networks = random_networks(SPEC)
    save_snapshot(ours, Snapshot(SPEC, networks, 0.0, 0, {}))
    assert not is_pickle(ours) and load_snapshot(ours).images_shown == 0
    # A safetensors file may begin with the very bytes of a pickle: its header's length is a number like any other.
    header = b'{"__metadata__":{"json":"{}"}}'
    write(tmp_path / "b", struct.pack("<Q", 0x0480) + header.ljust(0x0480))
    assert not is_pickle(str(tmp_path / "b"))
    for protocol in PROTOCOLS:
        assert is_pickle(write(tmp_path / "c", network_pickle(networks, 0, protocol)))


# ----------------------------------------------------------------------------------------------------------------------
# Files that are something else


def refusal(path):
    with pytest.raises(SnapshotError) as caught:
        load_snapshot(str(path))
    message = str(caught.value)
    assert message.startswith(str(path) + ": ") and "\n" not in message and len(message) < len(str(path)) + 300
    return message[len(str(path)) + 2 :]


def changed(change, **static_kwargs):
    """A file whose networks were changed by `change(networks)`."""
    networks = random_networks(SPEC)
    for net in networks:
        networks[net]["lod"] = np.float32(0)
    change(networks)
    assemble = Assembler()
    parts = [assemble.network(net, networks[net], **static_kwargs) for net in ("G", "D", "Gs")]
    return assemble.file(b"".join(parts) + code.TUPLE3)


def stylegan(networks):
    networks["G"] = {"G_mapping/Dense0/weight": np.zeros([8, 8]), "G_synthesis/4x4/Const/const": np.zeros([1, 8, 4, 4])}


def of_the_average(name, value):
    return lambda networks: networks["Gs"].update({name: value})


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda n: n["Gs"].pop("8x8/Conv1/weight"), "no weight Gs/8x8/Conv1/weight"),
        (lambda n: n["D"].pop("4x4/Dense0/bias"), "no weight D/4x4/Dense0/bias"),
        (lambda n: n["G"].pop("4x4/Dense/weight"), "G is not the network of a ProGAN: no 4x4/Dense/weight"),
        (lambda n: n["G"].pop("ToRGB_lod0/bias"), "G is not the network of a ProGAN: no ToRGB_lod0/bias"),
        (lambda n: n["D"].pop("4x4/Q_Encoder/Dense1/bias"), "D is not the network of a ProGAN: no 4x4/Q_Encoder/Dense"),
        (lambda n: [w.pop("lod") for w in n.values()], "no variable lod; at 16 px it lies between 0 and 2"),
        (stylegan, "G is not the network of a ProGAN: no 4x4/Dense/weight (it looks like a StyleGAN)"),
        (of_the_average("8x8/Conv1/weight", np.zeros([3, 3, 6, 7])), "Gs/8x8/Conv1/weight has shape [3, 3, 6, 7], exp"),
        (of_the_average("4x4/Dense/weight", np.zeros([128, 5])), "Gs/4x4/Dense/weight has shape [128, 5], expected [5"),
        (of_the_average("noise0", np.zeros([1, 1, 4, 4])), "Gs/noise0 is a weight that a ProGAN has not"),
        (of_the_average("64x64/Conv1/bias", np.zeros(3)), "Gs/64x64/Conv1/bias is a weight that a ProGAN has not"),
        (of_the_average("lod", np.float32(2.5)), "lod = [2.5]; at 16 px it lies between 0 and 2"),
        (of_the_average("lod", np.float32("nan")), "lod = [nan]; at 16 px"),
        (of_the_average("lod", np.zeros([2, 2])), "lod = [0.0, 0.0, 0.0, 0.0]; at 16 px"),
        (of_the_average("4x4/Conv/bias", np.arange(8)), "Gs/4x4/Conv/bias is no array of floating-point numbers"),
        (of_the_average("4x4/Conv/bias", None), "Gs/4x4/Conv/bias is no array of floating-point numbers"),
        (of_the_average("4x4/Conv/bias", [1.0] * 8), "Gs/4x4/Conv/bias is no array of floating-point numbers"),
        (of_the_average("two\nlines", np.zeros(3)), "the network Gs has a variable without a name of its own"),
        (of_the_average(7, np.zeros(3)), "the network Gs has a variable without a name of its own"),
        (
            lambda n: n["G"].update({"4x4/Dense/weight": np.zeros(3)}),
            "G/4x4/Dense/weight has shape [3], expected 2 dim",
        ),
        (lambda n: n["G"].update({"ToRGB_lod0/bias": np.zeros(0)}), "G/ToRGB_lod0/bias has shape [0], expected 1 dim"),
        (
            lambda n: n["G"].update({"16x16/Conv1/bias": np.zeros(9)}),
            "no --fmap_base and --fmap_max give as many featu",
        ),
    ],
)
def test_other_networks_are_refused(tmp_path, change, said):
    assert said in " ".join(refusal(write(tmp_path / "a.pkl", changed(change))).split())


@pytest.mark.parametrize(
    "argument, value",
    [("label_size", 10), ("normalize_latents", False), ("use_pixelnorm", False), ("fmap_decay", 0.5)],
)
def test_networks_that_compute_something_else_are_refused(tmp_path, argument, value):
    said = refusal(write(tmp_path / "a.pkl", changed(lambda networks: None, **{argument: value})))
    assert said.startswith(f"G was built with {argument} = {value}; only ")
    said = refusal(write(tmp_path / "a.pkl", changed(lambda networks: None, **{argument: "\n"})))
    assert said.startswith(f"G was built with {argument} = str; only ")


def test_other_pickles_are_named_for_what_they_are(tmp_path):
    def said(value):
        assemble = Assembler()
        return refusal(write(tmp_path / "a.pkl", assemble.file(assemble.value(value))))

    rest = ", not of three networks (G, D, Gs); nothing in it was executed"
    assert said({"state_dict": 1}) == f"a pickle of a dict{rest}"
    assert said(np.zeros(3)) == f"a pickle of a ndarray{rest}"
    assert said(()) == f"a pickle of a tuple{rest}"
    assert said((1.0, 2.0)) == f"a pickle of 2 values, the first a float{rest}"
    assert said(((),) * 3) == f"a pickle of 3 values, the first a tuple{rest}"
    assert said(LOOSE.network("G", {})) == f"a pickle of a call of dnnlib.tflib.network.Network{rest}"
    optimizer = LOOSE.instance("torch.optim", "Adam", {})
    assert said((optimizer, 1, 2)) == f"a pickle of 3 values, the first a call of torch.optim.Adam{rest}"
    assert said((LOOSE.instance("x", "Network", [1]),) * 3).endswith(rest)
    assert said(LOOSE.instance("x\x1b[2J", "y", {})) == f"a pickle of a call of x\\x1b[2J.y{rest}"


@pytest.mark.parametrize("variables", [None, {"4x4/Conv/bias": 1}, [1, 2], [("name", 1.0, 2)], ["ab"]])
def test_networks_without_a_list_of_variables(tmp_path, variables):
    assemble = Assembler()
    parts = [assemble.instance("dnnlib.tflib.network", "Network", {"variables": variables}) for _ in range(3)]
    assert "the network G has no list of variables" in refusal(
        write(tmp_path / "a.pkl", assemble.file(b"".join(parts) + code.TUPLE3))
    )


@pytest.mark.parametrize("content", [b"", b"text", b"<html>gone</html>", b"PK\x03\x04", b"(I1\nI2\nI3\nt."])
def test_files_that_are_no_pickle_at_all(tmp_path, content):
    assert "not a readable safetensors file" in refusal(write(tmp_path / "a.pkl", content))


def test_truncated_files(path):
    content = open(path, "rb").read()
    for length in [*range(2, 400), *range(400, len(content), 997), len(content) - 1]:
        with open(path, "wb") as stream:
            stream.write(content[:length])
        assert refusal(path)


def test_damage_is_one_line_or_other_numbers_and_never_a_crash(path):
    content = open(path, "rb").read()
    rng, loaded = np.random.RandomState(0), 0
    for _ in range(400):
        damaged = bytearray(content)
        for place in rng.randint(2, 3000 if rng.rand() < 0.5 else len(content), size=2):
            damaged[place] = rng.randint(256)
        with open(path, "wb") as stream:
            stream.write(damaged)
        try:
            load_snapshot(path)
            loaded += 1
        except SnapshotError as problem:
            assert str(problem).startswith(path) and "\n" not in str(problem)
    assert 0 < loaded < 400


# ----------------------------------------------------------------------------------------------------------------------
# Files that attack


def calls(canary):
    """{name: instructions (of protocol 4) that call os.system, or would by Python's own rules}."""
    assemble = Assembler(2, remember=False)
    command, system = assemble.value(f"touch {canary}"), assemble.name("os", "system")
    call = system + command + code.TUPLE1 + code.REDUCE
    nested = assemble.name("builtins", "getattr") + assemble.name("builtins", "__import__")
    nested += assemble.value("os") + code.TUPLE1 + code.REDUCE + assemble.value("system") + code.TUPLE2 + code.REDUCE
    return {
        "REDUCE": call,
        "nested REDUCE": nested + assemble.value(f"touch {canary}") + code.TUPLE1 + code.REDUCE,
        "NEWOBJ": assemble.name("subprocess", "Popen") + assemble.value((["touch", str(canary)],)) + code.NEWOBJ,
        "BUILD": assemble.name("os", "sys") + assemble.value({"stdout": call}) + code.BUILD,
        "BUILD of an array's state": assemble.name("numpy.core.multiarray", "_reconstruct")
        + (assemble.name("numpy", "ndarray") + assemble.value((0,)) + assemble.bytes(b"b") + code.TUPLE3)
        + code.REDUCE
        + (assemble.value((1, (1,), assemble.dtype(np.dtype(np.float32)), False, [call])) + code.BUILD),
        "INST": b"(S'touch %s'\nios\nsystem\n" % str(canary).encode(),
        "OBJ": b"(cos\nsystem\nS'touch %s'\no" % str(canary).encode(),
        "APPENDS to a class": assemble.name("os", "system") + code.MARK + call + code.APPENDS,
    }


LOOSE = Assembler(2, remember=False)
ATTACKS = list(calls(""))


def as_the_whole(attack):
    return Assembler(2).file(attack)


def as_a_network(attack):
    assemble = Assembler(2)
    networks = random_networks(SPEC)
    parts = [attack, *(assemble.network(net, networks[net]) for net in ("D", "Gs"))]
    return assemble.file(b"".join(parts) + code.TUPLE3)


def as_a_variable(attack):
    return changed_by_protocol_2({"4x4/Conv/weight": attack})


def as_the_lod(attack):
    return changed_by_protocol_2({"lod": attack})


def as_an_argument(attack):
    return changed_by_protocol_2({}, fmap_base=attack, label_size=attack)


def changed_by_protocol_2(variables, **static_kwargs):
    assemble = Assembler(2)
    networks = random_networks(SPEC)
    parts = [
        assemble.network(net, dict({"lod": np.float32(0)}, **dict(networks[net], **variables)), **static_kwargs)
        for net in ("G", "D", "Gs")
    ]
    return assemble.file(b"".join(parts) + code.TUPLE3)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", [as_the_whole, as_a_network, as_a_variable, as_the_lod, as_an_argument])
def test_attacks_are_one_line_and_do_not_run(tmp_path, place, attack):
    canary = tmp_path / "canary"
    path = write(tmp_path / "a.pkl", place(calls(canary)[attack]))
    refusal(path)
    assert not canary.exists()


def test_an_attack_that_nobody_looks_at_does_not_run_either(tmp_path):
    """An object with more state than it needs: the weights are all there, and they are all that is taken."""
    canary = tmp_path / "canary"
    networks, assemble = random_networks(SPEC), Assembler(2)
    parts = []
    for net in ("G", "D", "Gs"):
        state = {"variables": [("lod", np.float32(0)), *networks[net].items()], "more": calls(canary)["REDUCE"]}
        parts.append(assemble.instance("dnnlib.tflib.network", "Network", state))
    same(load_snapshot(write(tmp_path / "a.pkl", assemble.file(b"".join(parts) + code.TUPLE3))).networks, networks)
    assert not canary.exists()


@pytest.mark.parametrize("attack", ["REDUCE", "nested REDUCE", "INST", "OBJ"])
def test_the_attacks_are_real(tmp_path, attack):
    """Opened in the ordinary way, they do what they say."""
    canary = tmp_path / "canary"
    pickle.loads(as_the_whole(calls(canary)[attack]))
    assert canary.exists()


def test_the_source_text_of_a_network_is_never_run(path):
    assert b"raise SystemExit" in open(path, "rb").read()
    assert load_snapshot(path).spec == SPEC


def array_of(dtype_code, content, shape=(1,)):
    """An array whose type, shape and content are what they are said to be."""
    assemble = Assembler(2, remember=False)
    dtype = assemble.name("numpy", "dtype") + assemble.value((dtype_code, False, True)) + code.REDUCE
    dtype += assemble.value((3, "|", None, None, None, -1, -1, 63)) + code.BUILD
    start = assemble.name("numpy", "ndarray") + assemble.value((0,)) + assemble.bytes(b"b") + code.TUPLE3
    state = assemble.value((1, shape, dtype, False, content)) + code.BUILD
    return assemble.name("numpy.core.multiarray", "_reconstruct") + start + code.REDUCE + state


@pytest.mark.parametrize(
    "array, said",
    [
        (array_of("O8", [None]), "NumPy dtype 'O8'"),
        (array_of("O", LOOSE.bytes(bytes(8))), "NumPy dtype 'O'"),
        (array_of("V8", LOOSE.bytes(bytes(8))), "NumPy dtype 'V8'"),
        (array_of("f4,O", LOOSE.bytes(bytes(12))), "NumPy dtype 'f4,O'"),
        (array_of("f4", LOOSE.bytes(bytes(4)), shape=(2**30, 2**30)), "a content of 4"),
        (array_of("f4", LOOSE.bytes(bytes(4)), shape=(-1,)), "a NumPy array of shape (-1,)"),
        (array_of("f4", 4), "a NumPy array without bytes"),
        (b"B\xff\xff\xff\x7fabc", "truncated"),
        (b"X\xff\xff\xff\x7fabc", "truncated"),
        (b"\x8d" + struct.pack("<Q", 2**62) + b"abc", "truncated"),
        (b"\x8e" + struct.pack("<Q", 2**62) + b"abc", "truncated"),
        (b"r\xff\xff\xff\xffj\xff\xff\xff\xff0]" + b"j\xff\xff\xff\xff", "damaged"),
        (b"\x82\x01", "extension codes"),
        (b"Pelsewhere\n", "objects outside the file"),
        (b"}" + b")" + b"\x85" * 10**5 + b"Ns", "tuples of tuples"),
        (b"(" * 10**5, "damaged"),
    ],
)
def test_lies_about_types_and_sizes_are_refused_before_anything_is_allocated(tmp_path, array, said):
    path = tmp_path / "a.pkl"
    assert said in refusal(write(path, as_the_whole(array))) + refusal(write(path, as_a_variable(array)))


def test_nested_records_do_not_exhaust_the_stack(tmp_path):
    """A call of a call of a call..., and a message about it."""
    content = code.PROTO + b"\x02cos\nsystem\n" + b")R" * 10**5 + b"."
    assert "a pickle of a call of a call, not of" in refusal(write(tmp_path / "a.pkl", content))


def test_the_instructions_that_the_tests_use(path):
    """The files do hold what the reference's hold (here of protocol 4), in instructions that `pickletools` knows."""
    content = open(path, "rb").read()
    names = collections.Counter(opcode.name for opcode, _, _ in pickletools.genops(content))
    assert {"PROTO", "FRAME", "STACK_GLOBAL", "NEWOBJ", "BUILD", "REDUCE", "MEMOIZE", "TUPLE3", "STOP"} <= set(names)
    pickletools.dis(content, out=io.StringIO())  # raises where the stack or the memo does not work out


# ----------------------------------------------------------------------------------------------------------------------
# The commands


def run(name, monkeypatch, capsys, *arguments):
    """(exit status, standard output, standard error) of a command."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    with pytest.raises(SystemExit) as end:
        run_command(lambda: load_command(name).main([str(argument) for argument in arguments]))
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


def test_visualize_takes_a_pickle(path, tmp_path, monkeypatch, capsys):
    arguments = ["--models", path, "--stills_only", "--samples", 2, "--steps", 3, "--out_dir", tmp_path / "out"]
    status, _, err = run("visualize", monkeypatch, capsys, *arguments)
    assert status == 0, err
    names = sorted(os.listdir(str(tmp_path / "out")))
    assert "simple_ft-seed0-sweep.png" in names
    with Image.open(str(tmp_path / "out" / "simple_ft-seed0-sweep.png")) as sweep:
        assert np.asarray(sweep).std() > 20


def test_training_goes_on_from_a_pickle_as_a_new_run(tmp_path, data_dir, monkeypatch, capsys):
    spec = NetworkSpec(resolution=8, channels=3, nz=4, fmap_base=16, fmap_max=6)
    path = write(tmp_path / "e2s_bl.pkl", network_pickle(random_networks(spec), 0))
    flags = "--dataset squares --num_gpus 0 --num_threads 1 --hp_lambda 0.0001 --minibatch 4 --total_kimg 1200.048"
    flags += f" --compute_interp_ticks 0 --resume_snapshot {path} --data_dir {data_dir} --results_dir {tmp_path / 'r'}"
    status, out, err = run("train", monkeypatch, capsys, *flags.split())
    assert status == 0, err
    assert "1200 kimg" in out and "8x8" in out
    (run_dir,) = (tmp_path / "r").iterdir()
    (trained,) = map(load_snapshot, list_snapshots(str(run_dir)).values())
    assert (trained.spec, trained.lod) == (spec, 0) and trained.images_shown == 1200048
    before, after = load_snapshot(path).networks["Gs"], trained.networks["Gs"]
    moved = max(np.abs(after[name] - before[name]).max() for name in before)
    assert 0 < moved < 0.1  # its weights, after a few steps


def test_training_asks_what_becomes_of_a_q_head(tmp_path, data_dir, monkeypatch, capsys):
    """Its weight is not in the file; InfoGAN is neither dropped nor gone on with unasked."""
    spec = NetworkSpec(resolution=8, channels=3, nz=4, fmap_base=16, fmap_max=6, infogan_nz=2)
    path = write(tmp_path / "e2s_info.pkl", network_pickle(random_networks(spec), 0))
    flags = f"--dataset squares --resume_snapshot {path} --data_dir {data_dir} --results_dir {tmp_path / 'r'}"
    status, _, err = run("train", monkeypatch, capsys, *flags.split())
    assert status == 2 and err.count("\n") == 1
    assert "Q head for 2 components; give 1" in err and "or --infogan_nz 0" in err
    for answer in ("--infogan_lambda 1", "--infogan_nz 0"):  # both get as far as what is wrong next
        _, _, err = run("train", monkeypatch, capsys, *f"{flags} {answer} --total_kimg 1".split())
        assert "--total_kimg 1: " in err


def test_conversion(path, tmp_path, monkeypatch, capsys):
    status, printed, err = run("convert_snapshot", monkeypatch, capsys, path)
    assert status == 0, err
    out = str(tmp_path / "simple_ft.safetensors")
    assert out in printed and "16 px" in printed and "lod 1.25" in printed and "nz 5" in printed
    same(load_snapshot(out).networks, random_networks(SPEC))
    before, after = load_snapshot(path), load_snapshot(out)
    assert (after.spec, after.lod, after.images_shown) == (before.spec, before.lod, before.images_shown)
    status, _, err = run("convert_snapshot", monkeypatch, capsys, path)
    assert status == 2 and err.count("\n") == 1 and "exists already" in err and "--overwrite" in err
    assert run("convert_snapshot", monkeypatch, capsys, path, "--overwrite")[0] == 0
    assert run("convert_snapshot", monkeypatch, capsys, path, tmp_path / "other.safetensors")[0] == 0
    same(load_snapshot(str(tmp_path / "other.safetensors")).networks, random_networks(SPEC))


def test_conversion_refuses_what_is_no_pickle_of_networks(path, tmp_path, monkeypatch, capsys):
    run("convert_snapshot", monkeypatch, capsys, path)
    ours = str(tmp_path / "simple_ft.safetensors")
    for arguments, said in [
        ([ours, str(tmp_path / "b")], "is no network pickle"),
        ([str(tmp_path / "absent.pkl")], "absent.pkl: no such file"),
        ([write(tmp_path / "a.pkl", Assembler().file(code.NONE))], "a pickle of a NoneType, not of three networks"),
        ([path, path, "--overwrite"], "the pickle itself"),
    ]:
        status, _, err = run("convert_snapshot", monkeypatch, capsys, *arguments)
        assert status == 2 and said in err and err.count("\n") == 1, err
        assert not os.path.exists(str(tmp_path / "b"))
    assert load_snapshot(path).spec == SPEC
