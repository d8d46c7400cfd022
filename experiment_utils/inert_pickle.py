"""Pickles that nobody can vouch for, read without executing anything in them.

A pickle is a program for a small stack machine, and Python's own machine imports and calls whatever the program names.
The one below has no instruction that imports or calls: a class or function is a `Global`, which is only its name, and
calling or instantiating it gives a `Record` of what was asked for. The exceptions are in a table of the caller's:
(module, name) -> a constructor of ours.

    inert_load(stream, allowed=NUMPY)       any pickle; NumPy arrays are arrays, everything else is records
    load_pth("G_ema.pth")                   what torch.save wrote, as tensors; refused if it needs more than tensors

Sizes that a pickle states are compared with the size of the file before anything is allocated, and what its calls copy
is bounded by a multiple of that size, however often they refer to the same content.
"""

import collections
import io
import os
import pickle
import pickletools
import zipfile
import zlib

import numpy as np

from experiment_utils.errors import UserError, describe

_COPIES = 8  # bytes and entries that calls may copy, in sizes of the file...
_SMALL = 1 << 20  # ...and beyond those

Global = collections.namedtuple("Global", "module name")
Global.__doc__ = "A class or function that a pickle names. It was neither imported nor called."
Global.__str__ = lambda self: f"{self.module}.{self.name}"


class Record:
    """What a pickle would have made by calling `function` (a Global, or whatever stood there) with `arguments`.

    state   what would have gone to __setstate__, or None
    items   what would have been appended or added      entries   [(key, value)] that would have been set
    """

    def __init__(self, function, arguments, keywords=None):
        self.function, self.arguments, self.keywords = function, arguments, keywords or {}
        self.state, self.items, self.entries = None, [], []

    def __repr__(self):
        return f"<inert {self.function}>"


class InertPickleError(UserError):
    """A pickle that is damaged, or that needs what its reader does not allow."""


class MissingGlobalError(InertPickleError):
    """A pickle that names a class or function outside the allowed ones. `.wanted` is its Global."""

    def __init__(self, wanted):
        super().__init__(f"needs {wanted}")
        self.wanted = wanted


def inert_load(stream, allowed, strict=False, persistent_load=None):
    """Return what the pickle at `stream`'s position describes; the stream then stands right behind it.

    stream           a binary file or BytesIO (seekable: its size bounds every length that the pickle states)
    allowed          {(module, name): constructor}. A constructor gets the arguments of the call; what it returns may
                     have a method `inert_setstate`. None in its place: the name may occur, and stays a Global.
    strict           raise MissingGlobalError for a name outside `allowed`, instead of making records
    persistent_load  takes a persistent id (of any type: check it) to an object

    Raises InertPickleError where the pickle is damaged, or uses extension codes, out-of-band buffers or, without
    `persistent_load`, persistent ids.
    """
    machine = _Machine(allowed, strict, persistent_load)
    try:
        return machine.run(_BoundedStream(stream))
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RuntimeError) as problem:
        raise InertPickleError(f"damaged pickle ({describe(problem)})") from None


def _keys(values):
    """Return the values, as a list, if they may be keys of a dictionary or members of a set.

    Tuples of tuples may not. Python hashes them without a limit: a million levels crash it, and forty levels whose
    members are all the same object take it for ever.
    """
    values = list(values)
    if any(type(item) is tuple for value in values if type(value) is tuple for item in value):
        raise InertPickleError("has tuples of tuples as keys")
    return values


# ----------------------------------------------------------------------------------------------------------------------
# The stack machine


class _BoundedStream:
    """A stream that allocates nothing for bytes which are not there."""

    def __init__(self, stream):
        self._stream = stream
        start = stream.tell()
        self.size = self._end = stream.seek(0, os.SEEK_END)
        self.tell = stream.tell
        self.readline = stream.readline
        stream.seek(start)

    def read(self, count):
        if count > self._end - self._stream.tell():
            raise InertPickleError("truncated: the pickle ends in the middle")
        return self._stream.read(count)


class _Machine:
    """The machine of PEP 307 / 3154 / 574, its instructions as documented in `pickletools`, less all that executes."""

    def __init__(self, allowed, strict, persistent_load):
        self.allowed, self.strict, self.persistent_load = allowed, strict, persistent_load
        self.stack, self.below, self.memo = [], [], {}  # below: the stacks that a MARK has put aside
        self.left = 0  # what calls may still copy

    def run(self, stream):
        self.left = _COPIES * stream.size + _SMALL
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _GETS:
                self.stack.append(self.memo[argument])
            elif name in _PUTS:
                self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
            elif name == "PROTO":
                if argument > pickle.HIGHEST_PROTOCOL:
                    raise InertPickleError(
                        f"written with pickle protocol {argument}, and this Python reads 0 to {pickle.HIGHEST_PROTOCOL}"
                        "; open it with a newer Python"
                    )
            elif name not in _IGNORED:
                _INSTRUCTIONS[name](self, argument)
        raise InertPickleError("truncated: the pickle has no end")

    def to_mark(self):
        """Pop and return everything above the topmost mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def push(self, value):
        self.stack.append(value)

    def mark(self, _):
        self.below.append(self.stack)
        self.stack = []

    def pop(self, _):
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    def dictionary(self, _):
        items = self.to_mark()
        self.push({})
        self.set_items(items)

    def tuple_of(self, count):
        items = self.stack[-count:]
        if len(items) < count:
            raise IndexError("too few values on the stack")
        self.stack[-count:] = [tuple(items)]

    # Names and calls: the instructions that execute code elsewhere

    def find(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("the name of a class is no text")
        wanted = Global(module, name)
        if self.strict and wanted not in self.allowed:
            raise MissingGlobalError(wanted)
        return wanted

    def spend(self, values):
        """Count what a call may copy. A pickle can refer to one value any number of times, so that it need not grow."""
        self.left -= sum(len(value) for value in values if isinstance(value, _SIZED))
        if self.left < 0:
            raise InertPickleError("refers to the same content so often that it would grow to many times the file")

    def call(self, function, arguments, keywords=None):
        self.spend((arguments, *arguments, keywords))
        constructor = self.allowed.get(function) if isinstance(function, Global) else None
        if constructor is not None:
            return constructor(*arguments, **(keywords or {}))
        if self.strict:
            raise InertPickleError(f"calls {function if isinstance(function, Global) else type(function).__name__}")
        return Record(function, tuple(arguments), keywords)

    def global_(self, pair):
        self.push(self.find(*pair.split(" ", 1)))

    def stack_global(self, _):
        name = self.stack.pop()
        self.push(self.find(self.stack.pop(), name))

    def reduce(self, _):
        arguments = self.stack.pop()
        self.push(self.call(self.stack.pop(), tuple(arguments)))

    def newobj_ex(self, _):
        keywords, arguments = self.stack.pop(), self.stack.pop()
        self.push(self.call(self.stack.pop(), tuple(arguments), dict(keywords)))

    def inst(self, pair):
        arguments = self.to_mark()
        self.push(self.call(self.find(*pair.split(" ", 1)), arguments))

    def obj(self, _):
        function, *arguments = self.to_mark()
        self.push(self.call(function, arguments))

    def build(self, _):
        state = self.stack.pop()
        target = self.stack[-1]
        self.spend(state if isinstance(state, tuple) else ())
        if isinstance(target, Record):
            target.state = state
        elif type(target) is np.ndarray:
            target.__setstate__(_array_state(*state))
        elif hasattr(type(target), "inert_setstate"):
            target.inert_setstate(state)
        else:
            raise TypeError(f"a state for a {type(target).__name__}")

    def persid(self, text):
        if self.persistent_load is None:
            raise InertPickleError("refers to objects outside the file")
        self.push(self.persistent_load(text))

    def refuse(self, _):
        raise InertPickleError("uses extension codes or out-of-band buffers, whose meaning is not in the file")

    # Containers

    def extend(self, items):
        target = self.stack[-1]
        if isinstance(target, Record):
            target.items.extend(items)
        elif type(target) is list:
            target.extend(items)
        elif type(target) is set:
            target.update(_keys(items))
        else:
            raise TypeError(f"appends to a {type(target).__name__}")

    def set_items(self, items):
        target, pairs = self.stack[-1], list(zip(items[::2], items[1::2]))
        if isinstance(target, Record):
            target.entries.extend(pairs)
        elif isinstance(target, dict):
            _keys(items[::2])
            target.update(pairs)
        else:
            raise TypeError(f"sets items of a {type(target).__name__}")

    def set_item(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])


_SIZED = (bytes, bytearray, str, list, tuple, dict, set, frozenset)
_INTEGERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_LITERALS = _INTEGERS | _TEXTS | _BYTES
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_IGNORED = {"FRAME", "READONLY_BUFFER"}
_INSTRUCTIONS = {
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda m, _: m.to_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "TUPLE": lambda m, _: m.push(tuple(m.to_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "LIST": lambda m, _: m.push(m.to_mark()),
    "DICT": _Machine.dictionary,
    "FROZENSET": lambda m, _: m.push(frozenset(_keys(m.to_mark()))),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.to_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.to_mark()),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda m, _: m.set_items(m.to_mark()),
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.newobj_ex,
    "INST": _Machine.inst,
    "OBJ": _Machine.obj,
    "BUILD": _Machine.build,
    "PERSID": _Machine.persid,
    "BINPERSID": lambda m, _: m.persid(m.stack.pop()),
    "EXT1": _Machine.refuse,
    "EXT2": _Machine.refuse,
    "EXT4": _Machine.refuse,
    "NEXT_BUFFER": _Machine.refuse,
}

# ----------------------------------------------------------------------------------------------------------------------
# Containers and NumPy


class _OrderedDict(collections.OrderedDict):
    """Keeps the attributes that a pickle sets (the _metadata of a state dict), for load_state_dict to find."""

    def inert_setstate(self, state):
        if not isinstance(state, dict) or set(state) - {"_metadata"}:
            raise TypeError("an OrderedDict with attributes other than _metadata")
        vars(self).update(state)


class _DType:
    """numpy.dtype(code), whose byte order arrives with the state. Plain numbers, booleans and strings only."""

    def __init__(self, code, align=False, copy=False):
        self._dtype = _plain_dtype(code)

    def inert_setstate(self, state):
        order = state[1]
        if order not in ("<", ">", "|", "=") or state[2:5] != (None, None, None):
            raise TypeError("a structured NumPy dtype")
        self._dtype = self._dtype.newbyteorder(order)

    def value(self):
        return self._dtype


def _plain_dtype(code):
    dtype = np.dtype(code) if isinstance(code, str) else None
    if dtype is None or dtype.kind not in "biufcSU" or dtype.subdtype is not None:
        raise TypeError(f"NumPy dtype {code!r}")
    return dtype


def _array_state(_, shape, dtype, is_fortran, content):
    """The state of an array for NumPy's own __setstate__, every part of it checked."""
    return (1, *_checked_array(shape, dtype, content), bool(is_fortran), bytes(content))


def _checked_array(shape, dtype, content):
    """(shape, dtype) of an array whose `content` is as long as they say."""
    dtype = dtype.value()
    if not isinstance(content, (bytes, bytearray)):
        raise TypeError("a NumPy array without bytes")
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"a NumPy array of shape {shape}")
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize != len(content):
        raise ValueError(f"a NumPy array of {count} × {dtype.itemsize} bytes with a content of {len(content)}")
    return tuple(shape), dtype


def _reconstruct(subtype, shape, code):
    if subtype != Global("numpy", "ndarray"):
        raise TypeError(f"a subclass of NumPy's array ({subtype})")
    return np.empty(0, np.int8)  # its state follows


def _frombuffer(content, dtype, shape, order):
    shape, dtype = _checked_array(shape, dtype, content)
    return np.ndarray(shape, dtype, bytes(content), order="F" if order == "F" else "C").copy(order="K")


def _scalar(dtype, content):
    return np.ndarray(*_checked_array((), dtype, content), bytes(content))[()]


def _encode(text, encoding):
    if encoding not in ("latin1", "latin-1"):  # how protocols 0 to 2 write bytes
        raise ValueError(f"text encoded as {encoding!r}")
    return text.encode("latin-1")


def _bytearray(content=b"", encoding="latin-1"):
    if not isinstance(content, (bytes, str)):  # of an integer, bytearray would make that many zeros
        raise TypeError(f"a bytearray of a {type(content).__name__}")
    return bytearray(content if isinstance(content, bytes) else _encode(content, encoding))


def _ordered_dict(items=()):
    pairs = [(key, value) for key, value in items]
    _keys(key for key, _ in pairs)
    return _OrderedDict(pairs)


CONTAINERS = {
    Global("collections", "OrderedDict"): _ordered_dict,
    Global("_codecs", "encode"): _encode,
}
for _builtins in ("builtins", "__builtin__"):  # the second is Python 2's name, which protocols 0 to 2 keep
    CONTAINERS[Global(_builtins, "bytes")] = lambda: b""
    CONTAINERS[Global(_builtins, "set")] = lambda items=(): set(_keys(items))
    CONTAINERS[Global(_builtins, "frozenset")] = lambda items=(): frozenset(_keys(items))
    CONTAINERS[Global(_builtins, "bytearray")] = _bytearray

NUMPY = dict(CONTAINERS)
NUMPY[Global("numpy", "ndarray")] = None
NUMPY[Global("numpy", "dtype")] = _DType
for _core in ("numpy.core", "numpy._core"):
    NUMPY[Global(f"{_core}.multiarray", "_reconstruct")] = _reconstruct
    NUMPY[Global(f"{_core}.multiarray", "scalar")] = _scalar
    NUMPY[Global(f"{_core}.numeric", "_frombuffer")] = _frombuffer


# ----------------------------------------------------------------------------------------------------------------------
# PyTorch

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
}
_DTYPES = [*_STORAGES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"]
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    OSError,
    NotImplementedError,
    EOFError,
    ValueError,
    LookupError,
    RuntimeError,
    zlib.error,
)
_WIDEST_VIEW = 2**28  # bytes of a view that repeats its storage (expand) beyond the file's own size


def load_pth(path, error=UserError):
    """Return what torch.save put into `path` (.pth, .pt, .bin): nested dicts, lists, numbers and CPU tensors.

    Both formats, the zip of PyTorch >= 1.6 and the older stream. Tensors keep their strides, offsets and shared
    storages; parameters become tensors that need no gradient. Raises `error` (a UserError), with one line, where the
    file is missing, truncated, of another kind, or names any class or function that tensors do not need.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise error(f"{path}: no such file")
    with open(path, "rb") as stream:
        return _load_open(path, stream, error)


def _load_open(path, stream, error):
    try:
        if zipfile.is_zipfile(stream):
            return _load_zip(stream)
        stream.seek(0)
        _check_start(stream.read(1024), os.path.getsize(path))
        stream.seek(0)
        return _load_stream(stream)
    except MissingGlobalError as problem:
        wanted = problem.wanted
        raise error(f"{path}: refused: it asks for {wanted}, and tensors do not; nothing in it was executed") from None
    except UserError as problem:
        raise error(f"{path}: {problem}") from None
    except _ZIP_ERRORS as problem:
        raise error(f"{path}: damaged ({problem}); fetch it again") from None


def _check_start(start, size):
    """Say what a file is that is no zip and cannot be a PyTorch stream either."""
    if size == 0:
        raise UserError("an empty file")
    if start.startswith(b"PK"):
        raise UserError(f"truncated: a zip archive without its end, {size} bytes; fetch it again")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError("a web page, not weights; fetch the file itself")
    if start[257:262] == b"ustar":
        raise UserError("written by PyTorch before 0.1.10, or a tar archive; save it again with a newer one")
    if not start.startswith(b"\x80"):
        raise UserError("not a file that torch.save wrote")


def _load_zip(stream):
    with zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
        programs = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise UserError("a zip archive, but not one that torch.save wrote")
        folder = programs[0][: -len("data.pkl")]
        if f"{folder}constants.pkl" in names:
            raise UserError("a TorchScript program; save the module's state_dict() instead")
        budget = _Budget(os.fstat(stream.fileno()).st_size)

        def read(name):
            """The content of an entry, no longer than the file itself, whatever the entry says."""
            budget.spend(archive.getinfo(name).file_size)
            content = bytearray(archive.getinfo(name).file_size)
            with archive.open(name) as entry:
                if entry.readinto(content) != len(content):
                    raise UserError(f"truncated: {name} is incomplete; fetch it again")
            return content

        if f"{folder}byteorder" in names and read(f"{folder}byteorder") != b"little":
            raise UserError("written on a big-endian machine; convert it there")

        def read_storage(key, size):
            name = f"{folder}data/{key}"
            if name not in names:
                raise InertPickleError(f"has no data for storage {key}")
            if archive.getinfo(name).file_size != size:
                raise InertPickleError(f"storage {key} says {size} bytes and has {archive.getinfo(name).file_size}")
            return read(name)

        return _load_object(io.BytesIO(read(programs[0])), _Storages(read_storage), budget)


def _load_stream(stream):
    """The format before PyTorch 1.6: pickles (magic number, version, machine, object, keys), then the storages."""
    nothing = _Storages(lambda key, size: None)
    budget = _Budget(os.fstat(stream.fileno()).st_size)
    if _load_object(stream, nothing, budget) != _MAGIC_NUMBER:
        raise UserError("a pickle, but not one that torch.save wrote")
    if _load_object(stream, nothing, budget) != _PROTOCOL_VERSION:
        raise UserError("written by an unknown version of PyTorch")
    machine = _load_object(stream, nothing, budget)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UserError("written on a big-endian machine; convert it there")

    def allocate(key, size):
        budget.spend(size)
        return bytearray(size)

    storages = _Storages(allocate)
    result = _load_object(stream, storages, budget)
    for key in _load_object(stream, nothing, budget):
        storage = storages.to_fill(key)
        count = stream.read(8)
        if len(count) == 8 and int.from_bytes(count, "little") * storage.item_size != len(storage.content):
            raise InertPickleError(f"storage {key} is not of the size it says")
        if stream.readinto(storage.content) != len(storage.content):
            raise UserError(f"truncated in storage {key}; fetch it again")
    storages.check_all_filled()
    return result


def _load_object(stream, storages, budget):
    return inert_load(stream, _torch_globals(budget), strict=True, persistent_load=storages)


class _Budget:
    """Bytes that storages may take together: a file cannot hold more than its own size."""

    def __init__(self, size):
        self.size = size
        self._left = size

    def spend(self, size):
        self._left -= size
        if self._left < 0:
            raise InertPickleError(f"states more data than its {self.size} bytes can hold")


class _Storages:
    """Takes PyTorch's persistent ids to storages; `read(key, size in bytes)` gives a storage's bytearray."""

    def __init__(self, read):
        self._read = read
        self._storages, self._filled = {}, set()

    def __call__(self, identity):
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
            raise InertPickleError(f"refers to something that is no storage ({type(identity).__name__})")
        _, kind, key, _, count = identity[:5]
        if len(identity) == 6 and identity[5] is not None:
            raise UserError("holds storages that are views of others (PyTorch before 0.4); save it again")
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise InertPickleError(f"has a storage {key!r} of size {count!r}")
        dtype = _storage_dtype(kind)
        size = count * _item_size(dtype)
        if key not in self._storages:
            self._storages[key] = _Storage(self._read(key, size), dtype)
        if self._storages[key].dtype != dtype or len(self._storages[key].content) != size:
            raise InertPickleError(f"describes storage {key} in two ways")
        return self._storages[key]

    def to_fill(self, key):
        if key not in self._storages or key in self._filled:
            raise InertPickleError(f"has data for a storage {key!r} that nothing uses")
        self._filled.add(key)
        return self._storages[key]

    def check_all_filled(self):
        missing = sorted(set(self._storages) - self._filled)
        if missing:
            raise InertPickleError(f"has no data for storage {missing[0]}")


class _Storage:
    """Bytes that tensors are views of: `flat(dtype)` is the one 1-D tensor that all of them share."""

    def __init__(self, content, dtype):
        self.content, self.dtype, self.item_size = content, dtype, _item_size(dtype)
        self._flat = {}

    def flat(self, dtype):
        import torch

        if dtype not in self._flat:
            self._flat[dtype] = torch.frombuffer(self.content, dtype=dtype)
        return self._flat[dtype]


def _storage_dtype(kind):
    import torch

    if kind == Global("torch.storage", "UntypedStorage"):
        return torch.uint8
    if not isinstance(kind, Global) or kind.module != "torch" or kind.name not in _STORAGES:
        raise InertPickleError(f"has a storage of unknown type {kind}")
    return getattr(torch, _STORAGES[kind.name])


def _item_size(dtype):
    import torch

    return torch.empty((), dtype=dtype).element_size()


def _torch_globals(budget):
    """The table of what torch.save names when it writes tensors."""
    import torch

    def rebuild_tensor(storage, offset, size, stride, *_):
        return _view(storage, storage.dtype, offset, size, stride, budget.size)

    def rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, *_):
        if not isinstance(dtype, Global) or dtype.module != "torch" or dtype.name not in _DTYPES:
            raise InertPickleError(f"has a tensor of unknown type {dtype}")
        return _view(storage, getattr(torch, dtype.name), offset, size, stride, budget.size)

    def parameter(tensor, *_):
        return tensor

    table = dict(NUMPY)
    table.update({Global("torch", name): None for name in [*_STORAGES, *_DTYPES]})
    table[Global("torch.storage", "UntypedStorage")] = None
    table[Global("torch", "Size")] = lambda sizes=(): tuple(sizes)
    table[Global("torch", "device")] = lambda *where: ":".join(str(part) for part in where)
    table[Global("torch._utils", "_rebuild_tensor")] = rebuild_tensor
    table[Global("torch._utils", "_rebuild_tensor_v2")] = rebuild_tensor
    table[Global("torch._utils", "_rebuild_tensor_v3")] = rebuild_tensor_v3
    table[Global("torch._utils", "_rebuild_parameter")] = parameter
    table[Global("torch._utils", "_rebuild_parameter_with_state")] = parameter
    return table


def _view(storage, dtype, offset, size, stride, file_size):
    """A tensor of `size` and `stride` in `storage`, after a check that it stays inside."""
    import torch

    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or any(type(number) is not int or number < 0 for number in numbers):
        raise InertPickleError(f"has a tensor of size {tuple(size)}, stride {tuple(stride)}, offset {offset}")
    item_size = _item_size(dtype)
    if 0 in size:
        return torch.empty(tuple(size), dtype=dtype)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride))
    if (last + 1) * item_size > len(storage.content):
        raise InertPickleError(f"has a tensor that reaches element {last} of {len(storage.content) // item_size}")
    count = 1
    for length in size:
        count *= length
    if count * item_size > max(file_size, _WIDEST_VIEW):
        raise InertPickleError(f"has a tensor of size {tuple(size)}, far larger than the file")
    return storage.flat(dtype).as_strided(tuple(size), tuple(stride), offset)
