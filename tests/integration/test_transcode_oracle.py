# SPDX-License-Identifier: Apache-2.0
"""gateway/transcode against Google's own implementation (google.protobuf.json_format), on random messages and random damage.

The program build/tests/transcode_oracle (tests/unit/transcode_oracle.c) does what the gateway does; it is driven through a pipe. Each failure
names the seed: ENVGATE_SEED=… repeats the run.

Where the two differ on purpose:
- Ours refuses what Python's int(), float(), strptime and base64 let through: "1_0", " 1", "+1", "01", bare NaN and Infinity, bad base64, a bool as
  a number; and [] or "" as a message, NUL in strings, and a number beyond a double's range in a Value.
- Ours takes an enum's number in any spelling of an integer, in quotes too; Python's int() cuts 1.5 there, and refuses "1e2".
- Ours takes null for a repeated google.protobuf.Value, as for every field; Python's parser trips over it.
- Ours takes a repeated key in a map or Struct (the last one counts, as on the wire); Python refuses it.
- Ours writes integral floats without a fraction: 1 for 1.0.
- protobuf-c leaves out a field without presence that is -0.0, so none is made where ours writes binary.
- A Payload is the JSON value itself (proto/envgate/v1/payload.proto).
"""

import base64
import json
import math
import os
import pathlib
import random
import re
import struct
import subprocess

import pytest
from google.protobuf import any_pb2, descriptor, descriptor_pb2, descriptor_pool, json_format, message_factory, struct_pb2, wrappers_pb2
from google.rpc import error_details_pb2, status_pb2  # noqa: F401  (the types that Any may hold must be known)

ROOT = pathlib.Path(__file__).resolve().parents[2]
ORACLE = pathlib.Path(os.environ.get("ENVGATE_BUILD", ROOT / "build")) / "tests/transcode_oracle"
SEED = int(os.environ.get("ENVGATE_SEED", "20240501"))
SNAKE, DEFAULTS, IGNORE_UNKNOWN = 1, 2, 4

TEST_MESSAGES = ["Scalars", "Optionals", "Repeated", "Maps", "Oneofs", "WellKnown", "Nest", "All"]
API_MESSAGES = ["Session", "StepRequest", "StepResult", "ResetRequest", "ListSessionsResponse", "GetSchemaResponse"]
ANY_MESSAGES = [
    "google.rpc.ErrorInfo",
    "google.rpc.RetryInfo",
    "google.rpc.BadRequest",
    "google.protobuf.Duration",
    "google.protobuf.Timestamp",
    "google.protobuf.Int64Value",
    "google.protobuf.Struct",
    "google.protobuf.Empty",
]


class Oracle:
    """The program under test."""

    def __init__(self):
        self.process = subprocess.Popen([ORACLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, operation, options, name, data):
        """(accepted, result or error) of one command."""
        name = name.encode()
        self.process.stdin.write(struct.pack("<cBI", operation, options, len(name)) + name + struct.pack("<I", len(data)) + data)
        self.process.stdin.flush()
        head = self.process.stdout.read(5)
        assert len(head) == 5, f"the oracle died: {name} {data!r}"
        ok, size = struct.unpack("<BI", head)
        return bool(ok), self.process.stdout.read(size)

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def oracle():
    o = Oracle()
    yield o
    o.close()


@pytest.fixture(scope="module")
def message_class(tmp_path_factory):
    """Finds message classes by their full names, those of transcode_test.proto too."""
    import grpc_tools
    from grpc_tools import protoc

    out = tmp_path_factory.mktemp("py")
    site = pathlib.Path(grpc_tools.__file__).parent
    protos = [*sorted((ROOT / "proto/envgate/v1").glob("*.proto")), ROOT / "tests/unit/transcode_test.proto"]
    roots = [ROOT / "proto", ROOT / "tests/unit", site / "_proto", site.parent]
    assert protoc.main(["protoc", *(f"-I{r}" for r in roots), "--include_imports", f"--descriptor_set_out={out}/set.pb", *map(str, protos)]) == 0
    pool = descriptor_pool.Default()
    for file in descriptor_pb2.FileDescriptorSet.FromString((out / "set.pb").read_bytes()).file:
        try:
            pool.FindFileByName(file.name)
        except KeyError:
            pool.AddSerializedFile(file.SerializeToString())
    return lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


# --- random messages ---------------------------------------------------------------------------------------------------------------

FD = descriptor.FieldDescriptor
INTEGERS = {
    FD.TYPE_INT32: (-(2**31), 2**31 - 1),
    FD.TYPE_SINT32: (-(2**31), 2**31 - 1),
    FD.TYPE_SFIXED32: (-(2**31), 2**31 - 1),
    FD.TYPE_INT64: (-(2**63), 2**63 - 1),
    FD.TYPE_SINT64: (-(2**63), 2**63 - 1),
    FD.TYPE_SFIXED64: (-(2**63), 2**63 - 1),
    FD.TYPE_UINT32: (0, 2**32 - 1),
    FD.TYPE_FIXED32: (0, 2**32 - 1),
    FD.TYPE_UINT64: (0, 2**64 - 1),
    FD.TYPE_FIXED64: (0, 2**64 - 1),
}


class Maker:
    """Fills messages at random."""

    def __init__(self, rng, negative_zero):
        self.rng = rng
        self.negative_zero = negative_zero

    def text(self):
        rng = self.rng
        alphabet = rng.choice(["abc xyz", 'a"\\/\b\f\n\r\t\x01\x1f\x7f', "äßλж漢字\u2028\ufeff\uffff", "😀𝄞\U0010ffff", "<&>'="])
        return "".join(rng.choice(alphabet) for _ in range(rng.choice([0, 1, 3, 20])))

    def number(self, single, finite=False):
        rng = self.rng
        special = [0.0, 1.0, -1.0, 0.1, 1e21, 1e-7, 123456789.0, 2.0**53, 2.0**53 + 2, 0.3]
        if not single:
            special += [5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1 / 3, 2.0**-44, 1e23, 9007199254740993.0]
        if self.negative_zero:
            special.append(-0.0)
        if not finite:
            special += [math.inf, -math.inf, math.nan]
        value = rng.choice([rng.choice(special), rng.uniform(-1e3, 1e3), rng.gauss(0, 1) * 10.0 ** rng.randint(-30, 30)])
        if not single and rng.random() < 0.3:
            value = struct.unpack("<d", struct.pack("<Q", rng.getrandbits(64)))[0]
            if finite and not math.isfinite(value):
                return 0.5
        return math.nan if math.isnan(value) else value

    def scalar(self, field):
        rng = self.rng
        if field.type in INTEGERS:
            low, high = INTEGERS[field.type]
            return rng.choice([low, high, max(low, -1), 0, 1, rng.randint(low, high)])
        if field.type in (FD.TYPE_FLOAT, FD.TYPE_DOUBLE):
            return self.number(field.type == FD.TYPE_FLOAT)
        if field.type == FD.TYPE_BOOL:
            return rng.random() < 0.5
        if field.type == FD.TYPE_BYTES:
            return rng.randbytes(rng.choice([0, 1, 2, 3, 50]))
        if field.type == FD.TYPE_ENUM:
            if field.enum_type.full_name == "google.protobuf.NullValue":
                return 0
            return rng.choice([*field.enum_type.values_by_number, 77, -9])
        return self.text()

    def json_value(self, depth):
        rng = self.rng
        kinds = [None, True, False, 0, 12345678901, self.number(False, finite=True), self.text()]
        if depth < 4 and rng.random() < 0.5:
            size = rng.choice([0, 1, 3])
            if rng.random() < 0.5:
                return [self.json_value(depth + 1) for _ in range(size)]
            return {self.text(): self.json_value(depth + 1) for _ in range(size)}
        return rng.choice(kinds)

    def well_known(self, message, depth):
        """Fills a message whose values are not free; False if it is none of those."""
        rng, name = self.rng, message.DESCRIPTOR.full_name
        nanos = rng.choice([0, 1, 1000, 120_000_000, 999_999_999, rng.randrange(10**9)])
        if name == "google.protobuf.Timestamp":
            message.seconds = rng.choice([0, -1, -62135596800, 253402300799, rng.randint(-62135596800, 253402300799)])
            message.nanos = nanos
        elif name == "google.protobuf.Duration":
            sign, seconds = rng.choice([1, -1]), rng.choice([0, 1, 315576000000 - 1, rng.randrange(10**6)])
            message.seconds, message.nanos = sign * seconds, sign * nanos
        elif name == "google.protobuf.FieldMask":
            message.paths.extend(rng.choice(["name", "page_size", "a.b_c.d", "x1"]) for _ in range(rng.choice([0, 1, 3])))
        elif name == "google.protobuf.Struct":
            json_format.ParseDict({self.text(): self.json_value(depth) for _ in range(rng.choice([0, 1, 4]))}, message)
            message.SetInParent()
        elif name == "google.protobuf.ListValue":
            json_format.ParseDict([self.json_value(depth) for _ in range(rng.choice([0, 1, 4]))], message)
            message.SetInParent()
        elif name == "google.protobuf.Value":
            json_format.ParseDict(self.json_value(depth), message)
        elif name == "google.protobuf.Any":
            if rng.random() < 0.9:
                inner = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(rng.choice(ANY_MESSAGES)))()
                self.fill(inner, depth + 1)
                message.Pack(inner, deterministic=True)
        elif name == "envgate.v1.Payload":
            value = self.json_value(depth)
            if value is not None and rng.random() < 0.7:
                message.json = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode()
            elif value is not None:
                json_format.ParseDict(value, message.value)
        else:
            return False
        return True

    def fill(self, message, depth=0):
        message.SetInParent()
        if self.well_known(message, depth):
            return message
        for field in message.DESCRIPTOR.fields:
            if self.rng.random() < (0.4 if depth < 2 else 0.8):
                continue
            is_message = field.type == FD.TYPE_MESSAGE
            if is_message and depth > 4:
                continue
            if is_message and field.message_type.GetOptions().map_entry:
                self.fill_map(getattr(message, field.name), field.message_type, depth)
            elif field.is_repeated:
                for _ in range(self.rng.choice([0, 1, 2, 5])):
                    if is_message:
                        self.fill(getattr(message, field.name).add(), depth + 1)
                    else:
                        getattr(message, field.name).append(self.scalar(field))
            elif is_message:
                self.fill(getattr(message, field.name), depth + 1)
            else:
                setattr(message, field.name, self.scalar(field))
        return message

    def fill_map(self, target, entry, depth):
        key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
        for _ in range(self.rng.choice([0, 1, 3])):
            k = self.scalar(key)
            if value.type == FD.TYPE_MESSAGE:
                self.fill(target[k], depth + 2)
            else:
                target[k] = self.scalar(value)


# --- what json_format makes of them, with payloads as JSON -------------------------------------------------------------------------


def splice(desc, tree):
    """json_format's tree with each Payload replaced by its JSON."""
    if not isinstance(tree, dict):
        return tree
    out = {}
    for name, value in tree.items():
        field = next((f for f in desc.fields if name in (f.name, f.json_name)), None)
        if field is None or field.type != FD.TYPE_MESSAGE:
            out[name] = value
        elif field.message_type.full_name == "envgate.v1.Payload":
            if "json" in value:
                out[name] = json.loads(base64.b64decode(value["json"]))
            elif "value" in value:
                out[name] = value["value"]
        elif field.message_type.full_name.startswith("envgate.v1."):
            out[name] = [splice(field.message_type, v) for v in value] if isinstance(value, list) else splice(field.message_type, value)
        else:
            out[name] = value
    return out


def expected_tree(message, options):
    tree = json_format.MessageToDict(
        message, preserving_proto_field_name=bool(options & SNAKE), always_print_fields_with_no_presence=bool(options & DEFAULTS)
    )
    return splice(message.DESCRIPTOR, tree)


def plain(value):
    """A tree that compares by type and value: true is not 1, -0.0 is not 0, order within objects does not count."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, bool) or value is None:
        return (value,)
    if isinstance(value, (int, float)):
        return ("number", float(value), math.copysign(1, value)) if abs(value) < 2**53 else ("number", float(value))
    return value


def canonical(tree):
    """A tree's JSON with integers as floats and keys in order."""
    return json.dumps(json.loads(json.dumps(tree), parse_int=float), sort_keys=True).encode()


def normal(message):
    """The message's bytes, with payloads in one spelling and maps in one order."""
    copy = type(message)()
    copy.CopyFrom(message)

    def walk(m):
        if m.DESCRIPTOR.full_name == "envgate.v1.Payload":
            if m.WhichOneof("form") == "json":
                m.json = canonical(json.loads(m.json))
            elif m.WhichOneof("form") == "value":
                m.json = canonical(json_format.MessageToDict(m.value))
            return
        for field, value in m.ListFields():
            if field.type == FD.TYPE_MESSAGE and m.DESCRIPTOR.full_name.startswith("envgate.v1."):
                for item in value if field.is_repeated else [value]:
                    walk(item)
                    if not field.is_repeated and item.DESCRIPTOR.full_name == "envgate.v1.Payload" and not item.WhichOneof("form"):
                        m.ClearField(field.name)

    walk(copy)
    return copy.SerializeToString(deterministic=True)


# An Any keeps its message as bytes, where maps have no order: the messages are compared with their Anys unpacked, as JSON.
def same(a, b):
    return normal(a) == normal(b) or plain(json_format.MessageToDict(a)) == plain(json_format.MessageToDict(b))


def names():
    return [f"envgate.test.{n}" for n in TEST_MESSAGES] + [f"envgate.v1.{n}" for n in API_MESSAGES]


COUNT = 400  # of random messages a type and direction: 5,600 each way


@pytest.mark.parametrize("name", names())
def test_binary_to_json(oracle, message_class, name):
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} to-json {name}")
    maker, cls = Maker(rng, negative_zero=True), message_class(name)
    for i in range(COUNT):
        message, options = maker.fill(cls()), rng.choice([0, SNAKE, DEFAULTS, SNAKE | DEFAULTS])
        ok, text = oracle.run(b"j", options, name, message.SerializeToString())
        assert ok, f"seed {SEED}, message {i}: {text.decode()}\n{message}"
        assert plain(json.loads(text)) == plain(expected_tree(message, options)), f"seed {SEED}, message {i}, options {options}"


@pytest.mark.parametrize("name", names())
def test_json_to_binary(oracle, message_class, name):
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} to-binary {name}")
    maker, cls = Maker(rng, negative_zero=False), message_class(name)
    for i in range(COUNT):
        message = maker.fill(cls())
        tree = expected_tree(message, rng.choice([0, SNAKE]))
        text = json.dumps(tree, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 2])).encode()
        ok, binary = oracle.run(b"b", 0, name, text)
        assert ok, f"seed {SEED}, message {i}: {binary.decode()}\n{text.decode()}"
        assert same(cls.FromString(binary), message), f"seed {SEED}, message {i}: {text.decode()}"


def significant(number):
    """How many digits a decimal has, without the zeros around them."""
    return len(number.lower().partition("e")[0].lstrip("-").replace(".", "").strip("0"))


def test_doubles_are_short_and_exact(oracle):
    rng = random.Random(f"{SEED} doubles")
    maker = Maker(rng, negative_zero=True)
    for _ in range(3000):
        value = maker.number(False, finite=True)
        ok, text = oracle.run(b"j", 0, "google.protobuf.DoubleValue", wrappers_pb2.DoubleValue(value=value).SerializeToString())
        assert ok and float(text) == value, (value, text)
        # A power of two has its neighbours at two distances, and then one digit more may be written than it takes.
        power = abs(math.frexp(value)[0]) == 0.5
        assert significant(text.decode()) <= significant(repr(value)) + power, (value, text)


# --- damage ------------------------------------------------------------------------------------------------------------------------

# Values to put in the place of others; none that Python takes and ours refuses on purpose, beside what differs() tells.
SPARE = [
    None, 1, -1, 1.5, 1e2, 100.0, 2**31, 2**63, 2**64, -(2**63) - 1, "", "x", "1", "-7", "1.5", "AQI=", "AQI", "-_8", "true",
    "COLOR_RED", "COLOR_BLUE", "NaN", "-Infinity", "2024-02-30T00:00:00Z", "2024-02-29T23:59:59.5+01:30", "0000-01-01T00:00:00Z",
    "1.000000001s", "-0.5s", "1s1", "fooBar,bazQux", "foo_bar", {"unknown": 1}, ["x"], [1, 2], "\ud800",
]  # fmt: skip


def slots(tree, out):
    """Every (container, key) in a tree."""
    if isinstance(tree, dict):
        for k, v in tree.items():
            out.append((tree, k))
            slots(v, out)
    elif isinstance(tree, list):
        for i, v in enumerate(tree):
            out.append((tree, i))
            slots(v, out)
    return out


def damage(rng, tree):
    """The tree with one place changed."""
    tree = json.loads(json.dumps(tree))
    places = slots(tree, [])
    if not places:
        return rng.choice([[1], "x", 1, {"unknown": None}])
    container, key = rng.choice(places)
    if isinstance(container, dict) and rng.random() < 0.2:
        container[rng.choice([key.upper(), key + "x", "_" + key, "@type"])] = container.pop(key)
    else:
        container[key] = rng.choice(SPARE[1:] if key == "values" else SPARE)
    return tree


def python_takes(cls, text):
    """The message, or None if json_format refuses it."""
    try:
        return json_format.Parse(text, cls())
    except (json_format.ParseError, TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


@pytest.mark.parametrize("name", [n for n in names() if n.startswith("envgate.test.")])
def test_damaged_trees_fare_alike(oracle, message_class, name):
    """A changed value is refused by both or taken by both, as the same."""
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} damage {name}")
    maker, cls = Maker(rng, negative_zero=False), message_class(name)
    taken = refused = 0
    for i in range(COUNT):
        tree = damage(rng, expected_tree(maker.fill(cls()), 0))
        text = json.dumps(tree)
        theirs = python_takes(cls, text)
        ok, result = oracle.run(b"b", 0, name, text.encode())
        where = f"seed {SEED}, message {i}: ours {'takes' if ok else result.decode()}\n{text}"
        if ok:
            taken += 1
            assert theirs is not None, where
            assert same(cls.FromString(result), theirs), where
        else:
            refused += 1
            assert theirs is None or lenient(result.decode()), where
    assert taken > COUNT / 20 and refused > COUNT / 20


# What ours says when it refuses something that Python lets through (see above).
LENIENT = [
    "expected an object",  # "" and [] have nothing that could be wrong for Python
    "name or number of the enum",  # 1.5 is 1
    "base64",  # Python drops what is none of the alphabet
    "an RFC 3339 time",  # and reads years, fractions and offsets with strptime
    "a duration",
    "lowerCamelCase paths",
    "unpaired surrogate",  # in a map's key or a Value
    "number in the range of a",
    "must not contain NUL",
]


def lenient(error):
    return any(words in error for words in LENIENT)


@pytest.mark.parametrize("name", [n for n in names() if n.startswith("envgate.test.")])
def test_damaged_text_is_not_taken_alone(oracle, message_class, name):
    """Whatever ours makes of damaged bytes, Python makes, too: ours is the stricter one."""
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} bytes {name}")
    maker, cls = Maker(rng, negative_zero=False), message_class(name)
    for i in range(COUNT):
        text = bytearray(json.dumps(expected_tree(maker.fill(cls()), 0), ensure_ascii=False).encode())
        for _ in range(rng.choice([1, 1, 2])):
            at = rng.randrange(len(text))
            change = rng.random()
            if change < 0.4:
                text[at] = rng.choice(b'"\\{}[]:,019-+.eE \x00\x1f\x80\xc0\xed\xff')
            elif change < 0.7:
                del text[at : at + rng.choice([1, 2, 5])]
            else:
                text[at:at] = text[at : at + rng.choice([1, 2, 5])]
            if not text:
                text = bytearray(b"{")
        ok, result = oracle.run(b"b", 0, name, bytes(text))
        if not ok:
            continue
        theirs = python_takes(cls, bytes(text))
        where = f"seed {SEED}, message {i}: {bytes(text)!r}"
        assert theirs is not None, where
        # Damage may make a -0.0 (or a negative number too small to be anything else), which protobuf-c leaves out.
        assert re.search(rb"[:\s\[,]-0[.eE,\]}\s]|e-\d{3}", text) or same(cls.FromString(result), theirs), where


def test_damaged_binary_is_not_taken_alone(oracle, message_class):
    """Damaged binary messages are refused, or read as Python reads them."""
    rng = random.Random(f"{SEED} binary")
    maker = Maker(rng, negative_zero=True)
    for i in range(2000):
        name = rng.choice([n for n in names() if n.startswith("envgate.test.")])
        cls = message_class(name)
        data = bytearray(maker.fill(cls()).SerializeToString() or b"\x08\x01")
        data[rng.randrange(len(data))] = rng.randrange(256)
        ok, _ = oracle.run(b"j", 0, name, bytes(data))
        if ok:
            cls.FromString(bytes(data))  # raises where Python refuses it


def test_any_of_unknown_type_is_refused(oracle):
    message = any_pb2.Any(type_url="type.googleapis.com/nobody.Knows", value=b"x")
    ok, error = oracle.run(b"j", 0, "google.protobuf.Any", message.SerializeToString())
    assert not ok and b"no such message type" in error
    assert not oracle.run(b"b", 0, "google.protobuf.Any", b'{"@type": "type.googleapis.com/nobody.Knows"}')[0]


def test_value_that_is_no_number_is_refused(oracle):
    for number in (math.nan, math.inf):
        ok, error = oracle.run(b"j", 0, "google.protobuf.Value", struct_pb2.Value(number_value=number).SerializeToString())
        assert not ok and b"finite" in error


def test_ignore_unknown(oracle, message_class):
    cls = message_class("envgate.test.Scalars")
    text = b'{"nothing": {"a": [1]}, "aColor": "COLOR_BLUE", "anInt32": 5}'
    ok, binary = oracle.run(b"b", IGNORE_UNKNOWN, "envgate.test.Scalars", text)
    assert ok and cls.FromString(binary) == cls(an_int32=5)
    assert not oracle.run(b"b", 0, "envgate.test.Scalars", text)[0]
