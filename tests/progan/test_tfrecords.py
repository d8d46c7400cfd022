"""The TFRecord format against TensorFlow's own reader and writer, and against damage."""

import struct

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment_utils import tfrecords
from experiment_utils.errors import DataError

names = st.text(min_size=1, max_size=8)
int64 = st.integers(-(2**63), 2**63 - 1)
values = st.one_of(
    st.lists(st.binary(max_size=20), max_size=4),
    st.lists(int64, min_size=1, max_size=6).map(lambda numbers: np.array(numbers, np.int64)),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=6).map(lambda x: np.array(x, np.float32)),
)
examples = st.dictionaries(names, values, max_size=4)


def as_dictionary(example):
    """A tf.train.Example as decode_example gives it, read through TensorFlow's protobuf classes."""
    features = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind == "float_list":
            features[name] = np.array(feature.float_list.value, np.float32)
        elif kind == "int64_list":
            features[name] = np.array(feature.int64_list.value, np.int64)
        else:
            features[name] = list(feature.bytes_list.value)
    return features


def as_example(features):
    """A tf.train.Example of a dictionary of features, built by TensorFlow's protobuf classes."""
    example = tf.train.Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        if isinstance(value, list):
            feature.bytes_list.value.extend(value)
        elif value.dtype == np.float32:
            feature.float_list.value.extend(value.tolist())
        else:
            feature.int64_list.value.extend(value.tolist())
    return example


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, list):
            assert actual[name] == value
        else:
            assert actual[name].dtype == value.dtype
            np.testing.assert_array_equal(actual[name], value)


@settings(max_examples=60)
@given(examples)
def test_examples_round_trip_and_read_the_same_in_tensorflow(features):
    payload = tfrecords.encode_example(features)
    assert_same(tfrecords.decode_example(payload), features)
    assert_same(as_dictionary(tf.train.Example.FromString(payload)), features)


@settings(max_examples=60)
@given(examples)
def test_examples_that_tensorflow_serialised_are_read(features):
    assert_same(tfrecords.decode_example(as_example(features).SerializeToString()), features)


def test_integers_and_floats_that_are_not_packed_are_read():
    # Feature 3 (int64_list) with field 1 three times as a varint, and feature 2 (float_list) as two fixed32
    integers = b"\x1a\x06" + b"\x08\x01" + b"\x08\x02" + b"\x08\x03"
    floats = b"\x12\x0a" + b"\x0d" + struct.pack("<f", 1.5) + b"\x0d" + struct.pack("<f", -2.0)
    entries = b""
    for name, feature in ((b"i", integers), (b"f", floats)):
        entry = b"\x0a\x01" + name + b"\x12" + bytes([len(feature)]) + feature
        entries += b"\x0a" + bytes([len(entry)]) + entry
    payload = b"\x0a" + bytes([len(entries)]) + entries
    features = tfrecords.decode_example(payload)
    np.testing.assert_array_equal(features["i"], [1, 2, 3])
    np.testing.assert_array_equal(features["f"], np.float32([1.5, -2.0]))
    assert_same(features, as_dictionary(tf.train.Example.FromString(payload)))


def test_fields_of_later_versions_are_skipped():
    unknown = b"\x38\x05" + b"\x41" + bytes(8) + b"\x4d" + bytes(4) + b"\x52\x02ab"  # fields 7 to 10 of every wire type
    payload = tfrecords.encode_example({"a": np.array([1])}) + unknown
    np.testing.assert_array_equal(tfrecords.decode_example(payload)["a"], [1])


def test_empty_lists_stay_what_they_are():
    features = {"b": [], "f": np.zeros(0, np.float32), "i": np.zeros(0, np.int64)}
    assert_same(tfrecords.decode_example(tfrecords.encode_example(features)), features)


@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(0, 150), st.integers(0, 255))
def test_arbitrary_bytes_raise_nothing_but_value_error(junk, position, byte):
    features = {"shape": np.array([1, 4, 4]), "data": [bytes(16)], "f": np.float32([1, 2])}
    damaged = bytearray(tfrecords.encode_example(features))
    damaged[position % len(damaged)] = byte
    for payload in (junk, bytes(damaged)):
        try:
            tfrecords.decode_image(payload)
        except ValueError:
            pass


def test_the_checksum_is_the_published_one():
    # RFC 3720 B.4: the CRC-32C of 32 zero bytes is 8a9136aa; masked as TFRecord files do
    crc = 0x8A9136AA
    rotated = int("{:032b}".format(crc)[-15:] + "{:032b}".format(crc)[:-15], 2)
    assert tfrecords.masked_crc(bytes(32)) == (rotated + 0xA282EAD8) % 2**32


@pytest.mark.parametrize("channels", [1, 3])
def test_tensorflow_reads_what_we_write(tmp_path, channels):
    images = np.random.RandomState(0).randint(0, 256, [5, 8, 8, channels]).astype(np.uint8)
    path = str(tmp_path / "a.tfrecords")
    with open(path, "wb") as stream:
        for image in images:
            stream.write(tfrecords.record(tfrecords.encode_image(image)))
    for image, payload in zip(images, tf.python_io.tf_record_iterator(path)):
        feature = tf.train.Example.FromString(payload).features.feature
        shape = list(feature["shape"].int64_list.value)
        assert shape == [channels, 8, 8]
        planes = np.frombuffer(feature["data"].bytes_list.value[0], np.uint8).reshape(shape)
        np.testing.assert_array_equal(planes, image.transpose(2, 0, 1))
    assert len(list(tf.python_io.tf_record_iterator(path))) == 5
    with tf.Graph().as_default(), tf.Session() as session:  # the reader of the reference: parse and decode in the graph
        features = {"shape": tf.FixedLenFeature([3], tf.int64), "data": tf.FixedLenFeature([], tf.string)}
        parsed = tf.parse_single_example(payload, features)
        planes = session.run(tf.reshape(tf.decode_raw(parsed["data"], tf.uint8), parsed["shape"]))
    np.testing.assert_array_equal(planes, images[-1].transpose(2, 0, 1))


def test_we_read_what_tensorflow_writes(tmp_path):
    images = np.random.RandomState(1).randint(0, 256, [5, 3, 8, 8]).astype(np.uint8)
    path = str(tmp_path / "a.tfrecords")
    with tf.python_io.TFRecordWriter(path) as writer:
        for image in images:
            shape = np.array(image.shape, np.int64)
            writer.write(as_example({"shape": shape, "data": [image.tobytes()]}).SerializeToString())
    with tfrecords.RecordFile(path) as records:
        assert len(records) == 5
        for image, payload in zip(images, records):
            np.testing.assert_array_equal(tfrecords.decode_image(payload), image.transpose(1, 2, 0))
        np.testing.assert_array_equal(tfrecords.decode_image(records[3]), images[3].transpose(1, 2, 0))


payloads = st.lists(st.binary(max_size=30), min_size=1, max_size=5)


@settings(max_examples=60)
@given(payloads, st.data())
def test_a_truncated_file_names_the_file_and_the_record(tmp_path_factory, payloads, data):
    path = str(tmp_path_factory.mktemp("cut") / "a.tfrecords")
    blocks = [tfrecords.record(payload) for payload in payloads]
    whole = b"".join(blocks)
    cut = data.draw(st.integers(0, len(whole)))
    with open(path, "wb") as stream:
        stream.write(whole[:cut])
    ends = np.cumsum([0] + [len(block) for block in blocks])
    surviving = int(np.searchsorted(ends, cut, side="right")) - 1
    assert tfrecords.whole_records(path) == ends[: surviving + 1].tolist()
    if cut in ends:
        with tfrecords.RecordFile(path) as records:
            assert list(records) == payloads[:surviving]
    else:
        with pytest.raises(DataError) as error:
            tfrecords.RecordFile(path)
        assert path in str(error.value) and "record %d is truncated" % surviving in str(error.value)


@settings(max_examples=60)
@given(payloads, st.data())
def test_no_flipped_bit_goes_unnoticed(tmp_path_factory, payloads, data):
    path = str(tmp_path_factory.mktemp("flip") / "a.tfrecords")
    blocks = [tfrecords.record(payload) for payload in payloads]
    whole = bytearray(b"".join(blocks))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= 1 << data.draw(st.integers(0, 7))
    with open(path, "wb") as stream:
        stream.write(whole)
    damaged = int(np.searchsorted(np.cumsum([len(block) for block in blocks]), position, side="right"))
    with pytest.raises(DataError) as error:
        with tfrecords.RecordFile(path) as records:
            list(records)
    assert path in str(error.value) and "record %d " % damaged in str(error.value)
    assert len(tfrecords.whole_records(path)) == damaged + 1


def test_a_missing_file_is_named(tmp_path):
    path = str(tmp_path / "none.tfrecords")
    with pytest.raises(DataError, match=r"none\.tfrecords: no such file"):
        tfrecords.RecordFile(path)
    assert tfrecords.whole_records(path) == [0]


@pytest.mark.parametrize(
    "features, words",
    [
        ({"data": [bytes(48)]}, "shape"),
        ({"data": [bytes(48)], "shape": []}, "shape"),
        ({"shape": np.array([3, 4, 4])}, "data"),
        ({"shape": np.array([3, 4, 4]), "data": [bytes(47)]}, "3x4x4"),
        ({"shape": np.array([4, 4]), "data": [bytes(16)]}, "shape"),
        ({"shape": np.array([-1, -4, 4]), "data": [bytes(16)]}, "shape"),
        ({"shape": np.array([2**32, 2**32, 1]), "data": [b""]}, "data"),  # whose product overflows to 0
    ],
)
def test_examples_that_are_no_image_say_why(features, words):
    with pytest.raises(ValueError, match=words):
        tfrecords.decode_image(tfrecords.encode_example(features))
