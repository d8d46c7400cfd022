"""What torch.save wrote comes back as PyTorch reads it; what could execute something is refused, or is a record."""

import builtins
import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from experiment_utils.errors import SnapshotError, UserError
from experiment_utils.inert_pickle import NUMPY, Global, InertPickleError, Record, inert_load, load_pth

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128".split()


def save(path, value, zipped=True):
    torch.save(value, str(path), _use_new_zipfile_serialization=zipped)
    return str(path)


# ----------------------------------------------------------------------------------------------------------------------
# PyTorch files


@FORMATS
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_bit_for_bit(tmp_path, dtype, zipped):
    value = (torch.randn(3, 5) * 50).to(getattr(torch, dtype))
    loaded = load_pth(save(tmp_path / "a.pth", {"value": value, "scalar": value[1, 2], "none": value[:0]}, zipped))
    assert loaded["value"].dtype == value.dtype
    assert torch.equal(loaded["value"], value)
    assert torch.equal(loaded["scalar"], value[1, 2]) and loaded["scalar"].shape == ()
    assert loaded["none"].shape == (0, 5)


@pytest.mark.skipif(not hasattr(torch, "uint16"), reason="this PyTorch has no such dtypes to save")
@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"])
def test_the_dtypes_of_newer_versions(tmp_path, dtype):
    value = torch.arange(6).to(getattr(torch, dtype))
    loaded = load_pth(save(tmp_path / "a.pth", value))
    assert loaded.dtype == value.dtype and torch.equal(loaded.to(torch.float64), value.to(torch.float64))


@FORMATS
def test_views_strides_offsets_and_shared_storages(tmp_path, zipped):
    base = torch.arange(24.0).reshape(4, 6)
    value = {
        "base": base,
        "transposed": base.t(),
        "slice": base[1:3, ::2],
        "expanded": base[0, :1].expand(7, 3),
        "overlapping": base.view(-1).unfold(0, 4, 2),
        "double": base.double(),
    }
    loaded = load_pth(save(tmp_path / "a.pth", value, zipped))
    for name, tensor in value.items():
        assert torch.equal(loaded[name], tensor), name
        assert loaded[name].stride() == tensor.stride() and loaded[name].storage_offset() == tensor.storage_offset()
    again = save(tmp_path / "b.pth", loaded, zipped)
    assert abs(os.path.getsize(again) - os.path.getsize(str(tmp_path / "a.pth"))) < 64  # every storage once
    loaded["base"][1, 0] = -1.0
    assert loaded["transposed"][0, 1] == -1.0 and loaded["slice"][0, 0] == -1.0 and loaded["double"][1, 0] == 6.0


@FORMATS
def test_a_module_and_its_optimiser(tmp_path, zipped):
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(4, 1))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    module(torch.randn(2, 2, 6, 6)).sum().backward()
    optimizer.step()
    loaded = load_pth(
        save(tmp_path / "a.pth", {"model": module.state_dict(), "adam": optimizer.state_dict(), "step": 3}, zipped)
    )
    state = loaded["model"]
    assert isinstance(state, collections.OrderedDict) and list(state) == list(module.state_dict())
    assert state._metadata["1"] == module.state_dict()._metadata["1"]
    torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(4, 1)).load_state_dict(state)
    assert torch.equal(loaded["adam"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert loaded["adam"]["param_groups"] == optimizer.state_dict()["param_groups"]
    assert loaded["step"] == 3


@FORMATS
def test_parameters_numpy_and_plain_values(tmp_path, zipped):
    value = [
        torch.nn.Parameter(torch.randn(3)),
        np.arange(6, dtype="<i4").reshape(2, 3).T,
        np.float64(0.25),
        torch.Size([1, 2]),
        torch.device("cpu"),
        {1, 2},
        (None, True, -5, 2**70, 1.5, "é", b"\x00\xff", [{}]),
    ]
    parameter, array, scalar, size, device, numbers, plain = load_pth(save(tmp_path / "a.pth", value, zipped))
    assert torch.equal(parameter, value[0].detach()) and not parameter.requires_grad
    assert array.dtype == value[1].dtype and np.array_equal(array, value[1])
    assert scalar == 0.25 and type(scalar) is np.float64
    assert size == (1, 2) and device == "cpu" and numbers == {1, 2} and plain == value[-1]


@FORMATS
def test_truncated_anywhere_is_one_line(tmp_path, zipped):
    path = save(tmp_path / "a.pth", {"a": torch.randn(40), "b": [torch.randn(7), "text"]}, zipped)
    content = open(path, "rb").read()
    for length in range(0, len(content), 3):
        with open(path, "wb") as stream:
            stream.write(content[:length])
        with pytest.raises(SnapshotError, match=r"a\.pth: ") as error:
            load_pth(path, SnapshotError)
        assert "\n" not in str(error.value)


@FORMATS
def test_damage_is_an_error_or_another_value_but_never_a_crash(tmp_path, zipped):
    path = save(tmp_path / "a.pth", {"a": torch.randn(5), "b": (1, "text")}, zipped)
    content = open(path, "rb").read()
    random = np.random.RandomState(0)
    for _ in range(300):
        damaged = bytearray(content)
        for place in random.randint(len(damaged), size=3):
            damaged[place] = random.randint(256)
        with open(path, "wb") as stream:
            stream.write(damaged)
        try:
            load_pth(path)
        except UserError:
            pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>too many users have viewed this file</html>", "a web page"),
        (b"PK\x03\x04 the beginning of an archive", "truncated"),
        (b"some text", "not a file that torch.save wrote"),
        (pickle.dumps({"a": 1}, 2), "a pickle, but not one that torch.save wrote"),
        (b"archive".ljust(257, b"\0") + b"ustar" + bytes(250), "tar archive"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, message):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_pth(path)
    with pytest.raises(UserError, match="no such file"):
        load_pth(tmp_path / "absent.pth")


def test_a_zip_of_something_else(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(str(path), "w") as archive:
        archive.writestr("G_ema.pth", b"weights")
    with pytest.raises(UserError, match=r"not one that torch\.save wrote"):
        load_pth(path)


# ----------------------------------------------------------------------------------------------------------------------
# Pickles that lie


class Raw:
    """A pickle written instruction by instruction (protocol 2)."""

    def __init__(self, *parts):
        self.content = b"\x80\x02" + b"".join(parts) + b"."


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value):
    return pickle.dumps(value, 2)[2:-1]


def storage(kind="FloatStorage", key="0", count=4):
    return b"(" + text("storage") + (b"ctorch\n%s\n" % kind.encode()) + text(key) + text("cpu") + integer(count) + b"tQ"


def tensor(storage_code, offset=0, size=(4,), stride=(1,)):
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage_code
        + integer(offset)
        + integer(size)
        + integer(stride)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def write_zip(path, program, data=bytes(16)):
    with zipfile.ZipFile(str(path), "w") as archive:
        archive.writestr("archive/data.pkl", program.content)
        archive.writestr("archive/data/0", data)
        archive.writestr("archive/version", "3")
    return str(path)


def write_legacy(path, program, counts=(4,), data=bytes(16)):
    with open(str(path), "wb") as stream:
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(value, stream, 2)
        stream.write(program.content.replace(b"tQ", b"NtQ"))  # here a storage says of what it is a view
        pickle.dump([str(number) for number in range(len(counts))], stream, 2)
        for count in counts:
            stream.write(struct.pack("<q", count) + data)
    return str(path)


def test_the_hand_written_file_is_a_good_one(tmp_path):
    for write in (write_zip, write_legacy):
        path = write(tmp_path / "a.pth", Raw(tensor(storage())), data=np.arange(4, dtype="f4").tobytes())
        assert load_pth(path).tolist() == [0, 1, 2, 3]
        assert torch.load(path, weights_only=True).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (tensor(storage(count=2**40), size=(2**40,)), "size|bytes"),
        (tensor(storage(count=5), size=(5,)), "storage 0 "),
        (tensor(storage(count=-4)), "size -4"),
        (tensor(storage(kind="EvilStorage")), "torch.EvilStorage"),
        (tensor(storage(), offset=1), "reaches element 4"),
        (tensor(storage(), offset=-1), "offset -1"),
        (tensor(storage(), size=(2, 2), stride=(4, 1)), "reaches element 5"),
        (tensor(storage(), size=(2,), stride=(-1,)), "stride"),
        (tensor(storage(), size=(2, 2), stride=(1,)), "stride"),
        (tensor(storage(), size=(2**50,), stride=(0,)), "far larger than the file"),
        (tensor(integer(7)), "damaged"),
        (b"(" + tensor(storage()) + tensor(storage(kind="DoubleStorage", count=2), size=(2,)) + b"t", "two ways"),
        (text("elsewhere") + b"Q", "no storage"),
        (b"\x82\x01", "extension codes"),
        (b"\x8d" + struct.pack("<Q", 2**62) + b"abc", "truncated"),
        (b"B" + struct.pack("<I", 2**31) + b"abc", "truncated"),
        (b"r" + struct.pack("<I", 2**32 - 1), "damaged"),
        (b"N(ttt", "damaged"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n}" + text("__defaults__") + b"Nsb", "damaged"),
        (b"(" * 100000 + b"t" * 99999 + tensor(storage(key="9")), "9"),
        (b"})" + b"\x85" * 10**6 + b"Ns", "tuples of tuples"),  # to hash them is to overflow Python's own stack
        (b"})" + b"2\x86" * 60 + b"Ns", "tuples of tuples"),  # and these, 2**60 steps
        (b"cbuiltins\nset\n])" + b"\x85" * 10**6 + b"a\x85R", "tuples of tuples"),
        (b"ccollections\nOrderedDict\n])" + b"\x85" * 10**6 + b"N\x86a\x85R", "tuples of tuples"),
    ],
)
def test_lies_are_refused_before_anything_is_allocated(tmp_path, write, code, message):
    with pytest.raises(UserError, match=message):
        load_pth(write(tmp_path / "a.pth", Raw(code)))


def test_many_storages_on_the_same_bytes_cannot_multiply_a_file(tmp_path):
    """Entries of a zip may overlap: a file of 1 MB that reads as 1 GB."""
    path = str(tmp_path / "a.pth")
    code = b"".join(tensor(storage(key=str(key), count=2**18), size=(2**18,)) for key in range(1000))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", Raw(b"(" + code + b"t").content)
        archive.writestr("archive/data/0", bytes(2**20))
        first = archive.getinfo("archive/data/0")
        for key in range(1, 1000):
            copy = zipfile.ZipInfo(f"archive/data/{key}")
            copy.header_offset, copy.CRC = first.header_offset, first.CRC
            copy.file_size = copy.compress_size = first.file_size
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
    with pytest.raises(UserError, match=r"more data than its|damaged"):
        load_pth(path)


def test_a_compressed_bomb(tmp_path):
    path = str(tmp_path / "a.pth")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", Raw(tensor(storage(count=2**26), size=(2**26,))).content)
        archive.writestr("archive/data/0", bytes(2**28))
    with pytest.raises(UserError, match="more data than its"):
        load_pth(path)


def test_a_bomb_beside_the_tensors(tmp_path):
    path = write_zip(tmp_path / "a.pth", Raw(tensor(storage())))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/byteorder", bytes(2**28))
    with pytest.raises(UserError, match="more data than its"):
        load_pth(path)


def test_keys_may_be_tuples(tmp_path):
    value = {("a", 1): {("b",), frozenset([("c", 2)])}}
    assert load_pth(save(tmp_path / "a.pth", value)) == value


def test_legacy_storages_that_are_missing_or_never_asked_for(tmp_path):
    with pytest.raises(UserError, match="no data for storage"):
        load_pth(write_legacy(tmp_path / "a.pth", Raw(tensor(storage())), counts=()))
    with pytest.raises(UserError, match="nothing uses"):
        load_pth(write_legacy(tmp_path / "a.pth", Raw(tensor(storage())), counts=(4, 4)))
    with pytest.raises(UserError, match="not of the size"):
        load_pth(write_legacy(tmp_path / "a.pth", Raw(tensor(storage())), counts=(2**40,)))


# ----------------------------------------------------------------------------------------------------------------------
# Pickles that attack


class Call:
    """Pickled, it is a call of `function`."""

    def __init__(self, function, *arguments):
        self.recipe = function, arguments

    def __reduce__(self):
        return self.recipe


def attacks(sentinel):
    command = f"touch {sentinel}"
    code = f"open({str(sentinel)!r}, 'w')"
    yield "os.system", Call(os.system, command)
    yield "eval", Call(eval, code)
    yield "exec", Call(exec, code)
    yield "nested", Call(builtins.map, Call(getattr, Call(__import__, "os"), "system"), [command])
    yield "subprocess", Call(subprocess.Popen, ["touch", str(sentinel)])
    yield "in a tensor's hooks", {"a": torch.zeros(2), "b": [Call(os.system, command)]}
    yield "torch.load", Call(torch.load, str(sentinel))


def count_attacks():
    return len(list(attacks("")))


@FORMATS
@pytest.mark.parametrize("number", range(count_attacks()))
def test_exploits_are_refused_and_do_not_run(tmp_path, number, zipped):
    sentinel = tmp_path / "sentinel"
    _, payload = list(attacks(sentinel))[number]
    path = save(tmp_path / "a.pth", payload, zipped)
    with pytest.raises(UserError, match=r"refused: it asks for \S+, and tensors do not; nothing in it was executed"):
        load_pth(path)
    assert not sentinel.exists()


def test_the_exploits_are_real(tmp_path):
    """The same payloads, opened in the ordinary way, do write the file."""
    sentinel = tmp_path / "sentinel"
    pickle.loads(pickle.dumps(dict(attacks(sentinel))["os.system"]))
    assert sentinel.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_exploits_are_records_where_records_are_wanted(tmp_path, protocol):
    sentinel = tmp_path / "sentinel"
    for name, payload in attacks(sentinel):
        if name == "in a tensor's hooks":
            continue
        result = inert_load(io.BytesIO(pickle.dumps(payload, protocol)), allowed=NUMPY)
        assert isinstance(result, Record), name
    assert not sentinel.exists()


def test_exploits_through_old_instructions(tmp_path):
    """INST and OBJ call without a REDUCE."""
    sentinel = str(tmp_path / "sentinel").encode()
    for code in (b"(S'touch %s'\nios\nsystem\n.", b"(cos\nsystem\nS'touch %s'\no."):
        result = inert_load(io.BytesIO(code % sentinel), allowed={})
        assert result.function == Global("os", "system") and result.arguments == (f"touch {sentinel.decode()}",)
        with pytest.raises(InertPickleError, match=r"os\.system"):
            inert_load(io.BytesIO(code % sentinel), allowed={}, strict=True)
    assert not os.path.exists(sentinel)


def test_a_class_named_as_function_text_is_no_way_in():
    """A tuple that looks like an allowed name is data; so is an allowed function that is never called."""
    look_alike = b"(" + text("collections") + text("OrderedDict") + b"t)R."
    assert isinstance(inert_load(io.BytesIO(b"\x80\x02" + look_alike), allowed=NUMPY), Record)
    with pytest.raises(InertPickleError, match="calls tuple"):
        inert_load(io.BytesIO(b"\x80\x02" + look_alike), allowed=NUMPY, strict=True)


# ----------------------------------------------------------------------------------------------------------------------
# Any pickle


class Network:
    def __init__(self):
        self.variables = [("4x4/Dense/weight", np.random.RandomState(0).randn(3, 4).astype(np.float32))]
        self.name = "G"

    def __getstate__(self):
        return {"version": 3, "variables": self.variables, "name": self.name}

    def __setstate__(self, state):
        raise AssertionError("executed")


class Bag(list):
    pass


class Mapping(dict):
    pass


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_are_records_with_their_state(protocol):
    network, bag, mapping = Network(), Bag([1, 2, 3]), Mapping(a=1)
    content = pickle.dumps((network, bag, mapping, network), protocol)
    record, bag, mapping, again = inert_load(io.BytesIO(content), allowed=NUMPY)
    assert record is again
    assert record.state["version"] == 3 and record.state["name"] == "G"
    (name, array), *_ = record.state["variables"]
    assert name == "4x4/Dense/weight" and array.tobytes() == network.variables[0][1].tobytes()
    if protocol >= 2:
        assert bag.items == [1, 2, 3] and mapping.entries == [("a", 1)]
    else:  # the older protocols pass the content to a constructor
        assert bag.arguments[-1] == [1, 2, 3] and mapping.arguments[-1] == {"a": 1}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "|u1", "|b1", "<c16", "<f2", "|S5", "<U4"])
def test_numpy_bit_for_bit(protocol, dtype):
    """As NumPy itself reads them (which turns another byte order into the machine's own)."""
    for array in (
        np.arange(12).reshape(3, 4).astype(dtype),
        np.asfortranarray(np.arange(12).reshape(3, 4).astype(dtype)),
        np.zeros((0, 3), dtype),
        np.array(7).astype(dtype),
    ):
        content = pickle.dumps(array, protocol)
        loaded, expected = inert_load(io.BytesIO(content), allowed=NUMPY, strict=True), pickle.loads(content)
        assert type(loaded) is np.ndarray and loaded.dtype == expected.dtype and loaded.shape == expected.shape
        assert loaded.tobytes() == expected.tobytes() and np.array_equal(loaded, array)
        assert loaded.flags.f_contiguous == array.flags.f_contiguous
    scalar = np.array([3]).astype(dtype)[0]
    loaded = inert_load(io.BytesIO(pickle.dumps(scalar, protocol)), allowed=NUMPY, strict=True)
    assert loaded == scalar and type(loaded) is type(scalar)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_both_names_of_numpys_core(core):
    content = pickle.dumps(np.arange(3.0), 2)
    for name in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        content = content.replace(b"c" + name, b"c" + core.encode() + b".multiarray")
    assert inert_load(io.BytesIO(content), allowed=NUMPY).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "array",
    [
        np.array([Call(os.system, "true")], dtype=object),
        np.zeros(2, dtype=[("a", "i4"), ("b", "f4")]),
        np.zeros(2, dtype="M8[s]"),
    ],
    ids=["objects", "structured", "dates"],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(InertPickleError):
        inert_load(io.BytesIO(pickle.dumps(array, 2)), allowed=NUMPY)


def test_a_numpy_shape_that_lies():
    content = pickle.dumps(np.zeros((2, 3), np.float32), 2)
    lie = content.replace(b"K\x02K\x03\x86", b"K\x7fK\x7f\x86")
    assert lie != content
    with pytest.raises(InertPickleError, match="content of 24"):
        inert_load(io.BytesIO(lie), allowed=NUMPY)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_as_pickle_reads_them(protocol):
    shared = ["shared"]
    value = {
        "numbers": (0, -1, 255, 65536, 2**40, -(2**100), 1.5, float("inf"), True, False, None),
        "texts": ["", "é", "x" * 300, b"", b"bytes" * 80, "\ud800"],
        "sets": ({1, 2}, frozenset("ab"), set()),
        "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, [[shared]], shared],
        "many": list(range(3000)),
        "pairs": {number: str(number) for number in range(2000)},
        "bytes": bytearray(b"abc"),
        "ordered": collections.OrderedDict(a=1, b=2),
    }
    value["itself"] = value["containers"]
    loaded = inert_load(io.BytesIO(pickle.dumps(value, protocol)), allowed=NUMPY, strict=True)
    assert loaded == value
    assert loaded["itself"] is loaded["containers"] and loaded["containers"][-1] is loaded["containers"][-2][0][0]


def test_pickles_follow_each_other_in_a_stream():
    stream = io.BytesIO(pickle.dumps("first") + pickle.dumps("second") + b"rest")
    assert inert_load(stream, allowed={}) == "first"
    assert inert_load(stream, allowed={}) == "second"
    assert stream.read() == b"rest"


def many_arrays_of_one_content(count):
    """Protocol 3: `count` arrays, each to copy the one content that the memo holds."""
    content = bytes(2**20)
    keep = b"B" + struct.pack("<I", len(content)) + content + b"q\x090"
    dtype = b"cnumpy\ndtype\n" + text("u1") + b"\x89\x88\x87R"
    array = b"cnumpy.core.numeric\n_frombuffer\n(h\x09" + dtype + integer((2**20,)) + text("C") + b"tR"
    return b"\x80\x03]" + keep + b"(" + array * count + b"e."


def test_a_small_file_cannot_become_many_arrays():
    assert len(inert_load(io.BytesIO(many_arrays_of_one_content(5)), allowed=NUMPY, strict=True)) == 5
    with pytest.raises(InertPickleError, match="refers to the same content so often"):
        inert_load(io.BytesIO(many_arrays_of_one_content(10000)), allowed=NUMPY, strict=True)


@pytest.mark.parametrize(
    "repeated",
    [
        b"cbuiltins\nbytearray\nh\x00\x85R",
        b"cbuiltins\nset\nh\x01\x85R",
        b"cbuiltins\nobject\nh\x01R",  # what a record keeps of its arguments
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R"
        b"(K\x01J\x00\x00\x04\x00\x85cnumpy\ndtype\n" + text("u1") + b"\x89\x88\x87R\x89h\x00tb",
    ],
    ids=["bytearray", "set", "arguments", "array state"],
)
def test_nor_many_copies_by_other_calls(repeated):
    content = bytes(2**18)
    keep = b"B" + struct.pack("<I", len(content)) + content + b"q\x000" + b"](" + b"K\x07" * 2**17 + b"eq\x010"
    program = b"\x80\x03" + keep + b"](" + repeated * 1000 + b"e."
    with pytest.raises(InertPickleError, match="refers to the same content so often"):
        inert_load(io.BytesIO(program), allowed=NUMPY)


def test_a_protocol_that_this_python_does_not_read():
    content = b"\x80" + bytes([pickle.HIGHEST_PROTOCOL + 1]) + b"N."
    with pytest.raises(InertPickleError, match=rf"protocol {pickle.HIGHEST_PROTOCOL + 1}, .*; open it with a newer"):
        inert_load(io.BytesIO(content), allowed={})


class Point:
    """Our stand-in for a class that a pickle names."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, None

    def inert_setstate(self, state):
        self.state = state


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_constructors_of_the_caller(protocol):
    content = pickle.dumps([Network(), collections.OrderedDict(a=1)], protocol)
    allowed = {(__name__, "Network"): Point, ("collections", "OrderedDict"): dict}
    point, mapping = inert_load(io.BytesIO(content), allowed, strict=False)
    assert type(point) is Point and point.arguments == () and point.state["name"] == "G"
    assert type(mapping) is dict and mapping == {"a": 1}


def test_numpy_arrays_are_read_without_pytorch():
    code = (
        "import io, pickle, sys, numpy as np; from experiment_utils.inert_pickle import NUMPY, inert_load;"
        "inert_load(io.BytesIO(pickle.dumps(np.zeros(3))), NUMPY); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
