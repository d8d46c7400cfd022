"""TFRecord files of images, read and written without TensorFlow.

A file is a run of records, each `length (uint64) | masked CRC of length | payload | masked CRC of payload`, numbers
little-endian. A payload is a serialised `tf.train.Example`. For an image it has two features: `shape`, int64 [3] =
channels, height, width, and `data`, the pixels as raw uint8 in that order. (TensorFlow, "TFRecords format details" and
example.proto; Protocol Buffers, "Encoding".)
"""

import os
import struct

import google_crc32c
import numpy as np

from experiment_utils.errors import DataError

# ----------------------------------------------------------------------------------------------------------------------
# Records

_HEADER = struct.Struct("<QI")  # length, masked CRC of the eight bytes of the length
_FOOTER = struct.Struct("<I")  # masked CRC of the payload


def masked_crc(data):
    """Return the masked CRC-32C of bytes: rotated by 15 bits and offset, as a record's own checksums are stored."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def record(payload):
    """Return the bytes of one record around `payload`."""
    length = struct.pack("<Q", len(payload))
    return b"".join([length, _FOOTER.pack(masked_crc(length)), payload, _FOOTER.pack(masked_crc(payload))])


class RecordFile:
    """Random access to the payloads of a TFRecord file: `len(file)`, `file[i]` (bytes, CRC checked), iteration.

    Opening walks over the lengths alone, so that a truncated file is noticed at once. Raises DataError naming the file
    and the index of the record. Safe to read from several threads.
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            raise DataError("%s: no such file" % self.path) from None
        self._offsets, problem = _walk(self._descriptor)
        if problem is not None:
            self.close()
            raise DataError("%s: record %d %s; make or fetch the file again" % (self.path, len(self), problem))

    def __len__(self):
        return len(self._offsets) - 1

    def __getitem__(self, index):
        start, end = self._offsets[index], self._offsets[index + 1]
        size = end - start - _HEADER.size - _FOOTER.size
        block = os.pread(self._descriptor, size + _FOOTER.size, start + _HEADER.size)
        payload = block[:size]
        if len(block) != size + _FOOTER.size or _FOOTER.unpack_from(block, size)[0] != masked_crc(payload):
            raise DataError("%s: record %d is corrupt (wrong checksum)" % (self.path, index))
        return payload

    def __iter__(self):
        return (self[index] for index in range(len(self)))

    def close(self):
        os.close(self._descriptor)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def _walk(descriptor):
    """Return (offsets, problem): where each record starts and the last whole one ends; what is wrong then, or None."""
    size = os.fstat(descriptor).st_size
    offsets = [0]
    while offsets[-1] < size:
        header = os.pread(descriptor, _HEADER.size, offsets[-1])
        if len(header) < _HEADER.size:
            return offsets, "is truncated"
        length, crc = _HEADER.unpack(header)
        if crc != masked_crc(header[:8]):
            return offsets, "has no valid length"
        end = offsets[-1] + _HEADER.size + length + _FOOTER.size
        if end > size:
            return offsets, "is truncated"
        offsets.append(end)
    return offsets, None


def whole_records(path):
    """Return where each record of a file that a crash may have cut short starts, and where the last whole one ends.

    One entry more than there are whole records with valid checksums: [0] for a missing file.
    """
    try:
        descriptor = os.open(os.fspath(path), os.O_RDONLY)
    except FileNotFoundError:
        return [0]
    try:
        offsets, _ = _walk(descriptor)
        for index in range(len(offsets) - 1):
            start, end = offsets[index] + _HEADER.size, offsets[index + 1]
            block = os.pread(descriptor, end - start, start)
            if _FOOTER.unpack(block[-_FOOTER.size :])[0] != masked_crc(block[: -_FOOTER.size]):
                return offsets[: index + 1]
        return offsets
    finally:
        os.close(descriptor)


# ----------------------------------------------------------------------------------------------------------------------
# tf.train.Example, in the Protocol Buffers wire format

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3  # field numbers in tf.train.Feature


def encode_example(features):
    """Return a serialised tf.train.Example of {name: list of bytes, or an array of floats (float32) or of integers}."""
    entries = []
    for name, values in features.items():
        feature = _field(1, name.encode("utf-8")) + _field(2, _encode_feature(values))
        entries.append(_field(1, feature))  # Features.feature: a map is a repeated message of key (1) and value (2)
    return _field(1, b"".join(entries))  # Example.features


def _encode_feature(values):
    if isinstance(values, (list, tuple)) and all(isinstance(value, bytes) for value in values):
        return _field(_BYTES_LIST, b"".join(_field(1, value) for value in values))
    values = np.asarray(values)
    if values.dtype.kind == "f":
        return _field(_FLOAT_LIST, _field(1, values.astype("<f4").tobytes()))
    return _field(_INT64_LIST, _field(1, b"".join(_varint(int(value)) for value in values)))


def decode_example(payload):
    """Return the features of a serialised tf.train.Example: {name: list of bytes, or float32 or int64 array}.

    Raises ValueError where `payload` is no such message.
    """
    features = {}
    for number, message in _fields(payload):
        if number != 1:
            continue
        for number, entry in _fields(message):
            if number == 1:
                parts = dict(_fields(entry))
                features[bytes(_message(parts.get(1, b""))).decode("utf-8")] = _decode_feature(parts.get(2, b""))
    return features


def _decode_feature(message):
    values = []
    for number, value_list in _fields(message):
        items = [value for field, value in _fields(value_list) if field == 1]
        if number == _BYTES_LIST:
            values = [bytes(_message(item)) for item in items]
        elif number == _FLOAT_LIST:  # packed into bytes, or one by one
            values = np.frombuffer(b"".join(map(_message, items)), "<f4")
        elif number == _INT64_LIST:
            unsigned = [each for item in items for each in ([item] if isinstance(item, int) else _varints(item))]
            values = np.array(unsigned, np.uint64).astype(np.int64)
    return values


def _varint(value):
    """Return an integer in base 128, least significant group first; a negative one as its 64-bit complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _field(number, value):
    """Return a length-delimited field of a message."""
    return b"".join([_varint(number << 3 | _BYTES), _varint(len(value)), value])


def _read_varint(buffer, position):
    value = shift = 0
    while True:
        if position >= len(buffer) or shift > 63:
            raise ValueError("not a valid protocol buffer")
        group = buffer[position]
        value |= (group & 0x7F) << shift
        position += 1
        shift += 7
        if group < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position


def _varints(buffer):
    values, position = [], 0
    while position < len(buffer):
        value, position = _read_varint(buffer, position)
        values.append(value)
    return values


def _fields(buffer):
    """Yield (field number, value) of a message: an int for a varint, a memoryview of the bytes for every other type."""
    buffer, position = _message(buffer), 0
    while position < len(buffer):
        key, position = _read_varint(buffer, position)
        wire_type = key & 7
        if wire_type == _VARINT:
            value, position = _read_varint(buffer, position)
        else:
            if wire_type == _BYTES:
                size, position = _read_varint(buffer, position)
            elif wire_type in (_FIXED64, _FIXED32):
                size = 8 if wire_type == _FIXED64 else 4
            else:
                raise ValueError("not a valid protocol buffer")
            if position + size > len(buffer):
                raise ValueError("not a valid protocol buffer")
            value, position = buffer[position : position + size], position + size
        yield key >> 3, value


def _message(value):
    """Return a memoryview of a field that must be length-delimited."""
    if isinstance(value, int):
        raise ValueError("not a valid protocol buffer")
    return memoryview(value)


# ----------------------------------------------------------------------------------------------------------------------
# Images


def encode_image(image):
    """Return the serialised example of an image, uint8 [height, width, channels]."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    return encode_example({"shape": planes.shape, "data": [planes.tobytes()]})


def decode_image(payload):
    """Return the image, uint8 [height, width, channels], of a serialised example. Raises ValueError."""
    features = decode_example(payload)
    shape, data = features.get("shape"), features.get("data")
    if not isinstance(shape, np.ndarray) or shape.dtype != np.int64 or shape.shape != (3,) or np.any(shape < 1):
        raise ValueError("has no feature `shape` of three int64: channels, height, width")
    if not isinstance(data, list) or len(data) != 1 or len(data[0]) != np.prod(shape.astype(object)):
        raise ValueError("has no feature `data` of %s bytes" % "x".join(str(size) for size in shape))
    return np.frombuffer(data[0], np.uint8).reshape(shape).transpose(1, 2, 0)
