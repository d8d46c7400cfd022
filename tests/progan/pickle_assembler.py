"""Network pickles in the reference's layout, put together instruction by instruction: neither `pickle.dumps`, nor any
writer of this project, nor dnnlib has a part in them. (pickletools.dis shows what any of them says.)
"""

import struct

import numpy as np

# The instructions that are used, by their names in `pickletools`.
PROTO, FRAME, STOP, MARK = b"\x80", b"\x95", b".", b"("
NONE, NEWTRUE, NEWFALSE = b"N", b"\x88", b"\x89"
BININT, BININT1, BININT2, BINFLOAT = b"J", b"K", b"M", b"G"
BINUNICODE, SHORT_BINUNICODE = b"X", b"\x8c"
BINBYTES, SHORT_BINBYTES, BYTEARRAY8 = b"B", b"C", b"\x96"
EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3 = b")", b"t", b"\x85", b"\x86", b"\x87"
EMPTY_LIST, APPEND, APPENDS, EMPTY_DICT, SETITEM, SETITEMS = b"]", b"a", b"e", b"}", b"s", b"u"
GLOBAL, STACK_GLOBAL, REDUCE, NEWOBJ, BUILD = b"c", b"\x93", b"R", b"\x81", b"b"
BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET = b"q", b"r", b"\x94", b"h", b"j"


class Assembler:
    """Turns values into instructions of one protocol (2 to 5), as Python's own pickler lays them out.

    Arrays are written as NumPy < 2 wrote them. Texts and names that occur again are fetched from the memo; a part that
    is to go into another assembler's file must do without (remember=False).
    """

    def __init__(self, protocol=4, remember=True):
        self.protocol, self.remember, self.memo = protocol, remember, {}

    def file(self, body):
        """The whole file of one object's instructions."""
        frame = FRAME + struct.pack("<Q", len(body) + 1) if self.protocol >= 4 else b""
        return PROTO + bytes([self.protocol]) + frame + body + STOP

    def memoize(self, key):
        """Remember what lies on the stack under a key of ours."""
        if not self.remember:
            return b""
        number = self.memo[key] = len(self.memo)
        if self.protocol >= 4:
            return MEMOIZE
        return BINPUT + bytes([number]) if number < 256 else LONG_BINPUT + struct.pack("<I", number)

    def remembered(self, key):
        number = self.memo[key]
        return BINGET + bytes([number]) if number < 256 else LONG_BINGET + struct.pack("<I", number)

    def value(self, value):
        """The instructions that leave `value` on the stack. Bytes are instructions already; a function makes them.

        (Protocol 4 numbers what it remembers as it comes: so instructions must be made in their order.)
        """
        if isinstance(value, bytes):
            return value
        if callable(value):
            return value()
        if value is None or isinstance(value, bool):
            return {None: NONE, True: NEWTRUE, False: NEWFALSE}[value]
        if isinstance(value, (np.ndarray, np.generic)):
            return self.array(value) if isinstance(value, np.ndarray) else self.scalar(value)
        if isinstance(value, int):
            for code, form in ((BININT1, "<B"), (BININT2, "<H")):
                if 0 <= value < 256 ** struct.calcsize(form):
                    return code + struct.pack(form, value)
            return BININT + struct.pack("<i", value)
        if isinstance(value, float):
            return BINFLOAT + struct.pack(">d", value)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            items = b"".join(map(self.value, value))
            return EMPTY_LIST + (MARK + items + APPENDS if value else b"")
        if isinstance(value, dict):
            return EMPTY_DICT + self.items(value)
        assert isinstance(value, tuple)
        items = b"".join(map(self.value, value))
        return {0: EMPTY_TUPLE, 1: items + TUPLE1, 2: items + TUPLE2, 3: items + TUPLE3}.get(
            len(value), MARK + items + TUPLE
        )

    def items(self, mapping):
        """The instructions that set the items of the dictionary on the stack."""
        if not mapping:
            return b""
        return MARK + b"".join(self.value(key) + self.value(item) for key, item in mapping.items()) + SETITEMS

    def text(self, value):
        if value in self.memo:
            return self.remembered(value)
        encoded = value.encode("utf-8")
        if self.protocol >= 4 and len(encoded) < 256:
            return SHORT_BINUNICODE + bytes([len(encoded)]) + encoded + self.memoize(value)
        return BINUNICODE + struct.pack("<I", len(encoded)) + encoded + self.memoize(value)

    def bytes(self, value):
        if self.protocol < 3:  # as text, which Python 2 read as bytes
            encoded = value.decode("latin-1").encode("utf-8")
            text = BINUNICODE + struct.pack("<I", len(encoded)) + encoded
            return self.name("_codecs", "encode") + text + self.text("latin1") + TUPLE2 + REDUCE
        if len(value) < 256:
            return SHORT_BINBYTES + bytes([len(value)]) + value
        return BINBYTES + struct.pack("<I", len(value)) + value

    def name(self, module, name):
        """A class or function."""
        key = (module, name)
        if key in self.memo:
            return self.remembered(key)
        if self.protocol >= 4:
            return self.text(module) + self.text(name) + STACK_GLOBAL + self.memoize(key)
        return GLOBAL + f"{module}\n{name}\n".encode() + self.memoize(key)

    def dtype(self, dtype):
        key = ("dtype", dtype.str)
        if key in self.memo:
            return self.remembered(key)
        make = self.name("numpy", "dtype") + self.value((dtype.str[1:], False, True)) + REDUCE + self.memoize(key)
        return make + self.value((3, "<", None, None, None, -1, -1, 0)) + BUILD

    def array(self, array):
        order, content = ("F" if array.flags.fnc else "C"), array.tobytes("A")
        if self.protocol == 5:
            code = self.name("numpy.core.numeric", "_frombuffer") + MARK
            code += BYTEARRAY8 + struct.pack("<Q", len(content)) + content + self.dtype(array.dtype)
            return code + self.value(array.shape) + self.text(order) + TUPLE + REDUCE
        code = self.name("numpy.core.multiarray", "_reconstruct")
        code += self.name("numpy", "ndarray") + self.value((0,)) + self.bytes(b"b") + TUPLE3 + REDUCE
        code += MARK + self.value(1) + self.value(array.shape) + self.dtype(array.dtype)
        return code + self.value(order == "F") + self.bytes(content) + TUPLE + BUILD

    def scalar(self, value):
        code = self.name("numpy.core.multiarray", "scalar") + self.dtype(value.dtype)
        return code + self.bytes(value.tobytes()) + TUPLE2 + REDUCE

    def instance(self, module, name, state):
        """An object without arguments, and its state."""
        return self.name(module, name) + EMPTY_TUPLE + NEWOBJ + self.value(state) + BUILD

    def easy_dict(self, mapping):
        """An object of dnnlib's subclass of dict."""
        return self.name("dnnlib.util", "EasyDict") + EMPTY_TUPLE + NEWOBJ + self.items(mapping)

    def network(self, name, variables, module="dnnlib.tflib.network", **static_kwargs):
        """A Network with the state that the reference gives it; its source text would fail if anything ran it."""
        state = {
            "version": 3,
            "name": name,
            "static_kwargs": lambda: self.easy_dict(static_kwargs),
            "components": lambda: self.easy_dict({}),
            "build_module_src": "raise SystemExit('the source text of a pickle was executed')",
            "build_func_name": "D_paper" if name == "D" else "G_paper",
            "variables": [(key, value) for key, value in variables.items()],
        }
        return self.instance(module, "Network", state)


def network_pickle(networks, lod, protocol=4, **static_kwargs):
    """The file of a tuple (G, D, Gs) of {'G' | 'D' | 'Gs': {name: array}}."""
    assemble = Assembler(protocol)
    parts = [
        assemble.network(net, dict({"lod": np.float32(lod)}, **networks[net]), **static_kwargs)
        for net in ("G", "D", "Gs")
    ]
    return assemble.file(b"".join(parts) + TUPLE3)
