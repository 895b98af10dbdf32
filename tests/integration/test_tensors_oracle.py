# SPDX-License-Identifier: Apache-2.0
"""gateway/transcode's tensors against NumPy, and its floats against Python's and against exact fractions.

build/tests/transcode_oracle (tests/unit/transcode_oracle.c) does what the gateway does with a payload. ENVGATE_SEED=… repeats a run.
"""

import json
import math
import random
import struct
from fractions import Fraction

import numpy as np
import pytest
from test_transcode_oracle import SEED, Oracle

from envgate.v1 import payload_pb2, session_service_pb2 as pb

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
INTEGERS, FLOATS = DTYPES[1:9], DTYPES[9:]
NUMBER = {name: payload_pb2.Dtype.Value("DTYPE_" + name.upper()) for name in DTYPES}


@pytest.fixture(scope="module")
def oracle():
    o = Oracle()
    yield o
    o.close()


def read(oracle, text, **dtypes):
    """The tensors that JSON text has at paths: {"path": "dtype"} → (tensors, rest) or the error's text."""
    request = pb.StepRequest(tensors=[payload_pb2.TensorSpec(path=p, dtype=NUMBER[d]) for p, d in dtypes.items()])
    ok, result = run(oracle, b"t", request.SerializeToString(), text.encode())
    if not ok:
        return result.decode()
    payload = payload_pb2.Payload.FromString(result)
    assert payload.WhichOneof("form") == "tensors"
    return {k: array(t) for k, t in payload.tensors.tensors.items()}, payload.tensors.json


def run(oracle, operation, name, data):
    oracle.process.stdin.write(struct.pack("<cBI", operation, 0, len(name)) + name + struct.pack("<I", len(data)) + data)
    oracle.process.stdin.flush()
    ok, size = struct.unpack("<BI", oracle.process.stdout.read(5))
    return bool(ok), oracle.process.stdout.read(size)


def array(tensor):
    dtype = np.dtype(payload_pb2.Dtype.Name(tensor.dtype).removeprefix("DTYPE_").lower()).newbyteorder("<")
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


def tensor(a):
    a = np.asarray(a)
    return payload_pb2.Tensor(dtype=NUMBER[a.dtype.name], shape=a.shape, data=a.astype(a.dtype.newbyteorder("<")).tobytes())


def write(oracle, tensors, rest=b""):
    """The JSON that tensors by path stand for, or the error's text."""
    payload = payload_pb2.Payload(tensors=payload_pb2.Tensors(tensors=tensors, json=rest))
    ok, result = run(oracle, b"j", b"envgate.v1.Payload", payload.SerializeToString())
    return ok, result.decode()


def bits(a):
    return np.asarray(a).tobytes()


def shape_of(rng):
    return tuple(rng.choice([0, 1, 2, 3, 5, 9]) for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 4])))


def random_array(rng, nprng, dtype, shape):
    """Values of all sizes, edges among them; finite."""
    t = np.dtype(dtype)
    if dtype == "bool":
        return nprng.integers(0, 2, shape).astype(bool)
    if t.kind in "iu":
        info = np.iinfo(t)
        raw = np.frombuffer(nprng.bytes(max(1, math.prod(shape)) * t.itemsize), t)[: math.prod(shape)].reshape(shape).copy()
        small = nprng.integers(0, 128, shape).astype(t)
        edges = np.array([info.min, info.max, 0, 1], t)[nprng.integers(0, 4, shape)]
        return np.select([nprng.random(shape) < 0.5, nprng.random(shape) < 0.3], [small, edges], raw).astype(t)
    raw = np.frombuffer(nprng.bytes(max(1, math.prod(shape)) * t.itemsize), t)[: math.prod(shape)].reshape(shape).copy()
    raw[~np.isfinite(raw)] = 0.5
    usual = nprng.normal(0, 1, shape).astype(t)
    short = (nprng.integers(-1000, 1000, shape) / 10).astype(t)
    return np.select([nprng.random(shape) < 0.4, nprng.random(shape) < 0.4], [usual, short], raw).astype(t)


def spelled(rng, values):
    """JSON of nested lists in one of the usual spellings."""
    return json.dumps(values, separators=rng.choice([(",", ":"), (", ", ": "), (" , ", " : ")]), indent=rng.choice([None, None, None, 1]))


# --- arrays ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_both_ways(oracle, dtype):
    rng, nprng = random.Random(SEED), np.random.default_rng(SEED)
    for i in range(250):
        a = random_array(rng, nprng, dtype, shape_of(rng))
        # Python's own numbers are exact, for float16 and float32, too.
        text = spelled(rng, {"other": {"x": [1.50, "y"]}, "deep": [{"a/b~": a.tolist()}, 2], "n": None})
        got, rest = read(oracle, text, **{"/deep/0/a~1b~0": dtype})
        b = got["/deep/0/a~1b~0"]
        expected = a if a.size else np.array(a.tolist(), a.dtype)  # [] has lost the dimensions behind
        assert b.dtype == a.dtype and b.shape == expected.shape and bits(a) == bits(b), (SEED, i, text)
        assert json.loads(rest) == {"other": {"x": [1.50, "y"]}, "deep": [{}, 2], "n": None}
        ok, back = write(oracle, {"/x": tensor(a)}, b'{"k":1}')
        assert ok, back
        value = json.loads(back)
        c = np.array(value["x"], a.dtype)
        assert value["k"] == 1 and c.shape == expected.shape and bits(c) == bits(a), (SEED, i, back)
        kinds = {bool} if dtype == "bool" else {int} if dtype in INTEGERS else {float}
        assert {type(v) for v in np.array(value["x"], object).ravel()} <= kinds


def test_frames(oracle):
    nprng = np.random.default_rng(SEED)
    for shape in [(84, 84), (210, 160, 3), (4, 84, 84)]:
        for high in (2, 10, 100, 256):
            a = nprng.integers(0, high, shape).astype(np.uint8)
            for separators in ((",", ":"), (", ", ": ")):
                got, rest = read(oracle, json.dumps({"f": a.tolist()}, separators=separators), **{"/f": "uint8"})
                assert bits(got["/f"]) == bits(a) and got["/f"].shape == shape and rest == b""
                got, rest = read(oracle, json.dumps(a.tolist(), separators=separators), **{"": "int32"})
                assert bits(got[""]) == bits(a.astype(np.int32)) and rest == b""


def test_integer_blocks(oracle):
    """Numbers of every length at every place of a block."""
    rng = random.Random(SEED)
    for i in range(400):
        values = [rng.randrange(10 ** rng.randint(1, 19)) for _ in range(rng.randint(1, 80))]
        if rng.random() < 0.3:
            values = [v * rng.choice([1, -1]) for v in values]
        a = np.array(values, np.int64) if all(abs(v) < 2**63 for v in values) else None
        if a is not None:
            got, _ = read(oracle, " " * rng.randint(0, 9) + spelled(rng, values), **{"": "int64"})
            assert bits(got[""]) == bits(a), (SEED, i)
        # One that does not fit is found, at its place.
        small = [rng.randrange(256) for _ in range(rng.randint(1, 90))]
        k = rng.randrange(len(small))
        small[k] = rng.choice([256, -1, 2**32, 2**64, 10**30, 1000, 100000000, 1.5])
        error = read(oracle, json.dumps({"a": [small]}), **{"/a": "uint8"})
        assert isinstance(error, str) and f"at [0][{k}]" in error and '"/a"' in error and "uint8" in error, (error, small)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_spellings_and_limits(oracle, dtype):
    info = np.iinfo(dtype)
    for v in {info.min, info.min + 1, -1, 0, 1, 100, info.max - 1, info.max}:
        if v < info.min:
            continue
        spellings = [str(v), f"{v}.0", f"{v}.000e0"] + ([f"{v}0e-1", f"{v}000E-3"] if v else ["-0", "0e5"])
        if v % 100 == 0:
            spellings += [f"{v // 100}e2", f"{v // 100}E+02"]
        for s in spellings:
            got, _ = read(oracle, s, **{"": dtype})
            assert got[""].shape == () and int(got[""]) == v, s
    for s in [str(info.min - 1), str(info.max + 1), f"{info.max + 1}.0", "1e40", "-1e40", "0.5", "1.5", "1e-1", "1e99999999999", str(10**40), f"{info.max}.5"]:
        assert isinstance(read(oracle, s, **{"": dtype}), str), s


# --- floats ------------------------------------------------------------------------------------------------------------------------------

SIZES = {"float16": (11, -24, 16), "float32": (24, -149, 128), "float64": (53, -1074, 1024)}


def nearest(text, dtype):
    """The bits of the nearest number to a decimal, by exact arithmetic."""
    precision, lowest, top = SIZES[dtype]
    negative = text.startswith("-")
    mantissa, _, e = text.partition("e")
    if abs(int(e or "0")) > 10**6:  # more than Fraction can take
        text = mantissa + ("e6000" if int(e) > 0 else "e-6000")
    x = abs(Fraction(text))
    if x == 0:
        v = 0.0
    else:
        exponent = max(x.numerator.bit_length() - x.denominator.bit_length() - precision - 1, lowest)
        while True:
            m = x / Fraction(2) ** exponent
            if m < 2**precision:
                break
            exponent += 1
        whole = math.floor(m)
        left = m - whole
        whole += left > Fraction(1, 2) or (left == Fraction(1, 2) and whole % 2)
        v = math.inf if whole * Fraction(2) ** exponent >= Fraction(2) ** top else math.ldexp(whole, exponent)
    with np.errstate(over="ignore"):
        return bits(np.array(-v if negative else v, dtype))


def halfway(rng, dtype):
    """A decimal exactly between two neighbours."""
    precision, lowest, top = SIZES[dtype]
    exponent = rng.choice([lowest, lowest + 1, 0 - precision, 1, top - precision, rng.randint(lowest, top - precision)])
    m = rng.choice([0, 1, 2 ** (precision - 1), 2**precision - 1, rng.randrange(2**precision)])
    x = Fraction(2 * m + 1) * Fraction(2) ** (exponent - 1)
    places = max(0, x.denominator.bit_length() - 1)
    digits = str(x.numerator * 5**places) if places else str(x.numerator)
    return digits, -places


def texts(rng, dtype):
    digits, exponent = halfway(rng, dtype)
    yield f"{digits}e{exponent}"
    yield f"{digits}0000001e{exponent - 7}"
    yield f"{int(digits) * 10**30 - 1}e{exponent - 30}"
    yield f"{digits}{'0' * 800}1e{exponent - 801}"
    if -400 < exponent < 0:  # without an exponent
        padded = digits.rjust(-exponent + 1, "0")
        yield padded[:exponent] + "." + padded[exponent:]
    n = rng.choice([1, 2, 7, 8, 9, 15, 16, 17, 18, 19, 20, 21, 40, 800])
    yield f"{rng.choice(['', '-'])}{rng.randrange(1, 10**n)}e{rng.choice([0, -n, rng.randint(-30, 30), rng.randint(-400, 400)])}"
    yield repr(struct.unpack("<d", struct.pack("<Q", rng.getrandbits(64) & ~(1 << 62)))[0])
    yield repr(float(np.float32(rng.gauss(0, 1))))
    yield f"{rng.choice(['', '-'])}{rng.randrange(10**rng.randint(1, 18))}.{rng.randrange(10**18):018d}"
    yield f"0.{'0' * rng.randint(0, 60)}{rng.randrange(1, 10**18)}"


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_are_rounded_once(oracle, dtype):
    rng = random.Random(SEED)
    cases = [t for _ in range(600) for t in texts(rng, dtype)]
    cases += ["0", "-0", "0.0", "-0.0e5", "0e999999999999", "1e999999999999999999999", "-1e-999999999999999999999", "1e400", "-1e400", "1e-400", "5e-324", "2.5e-324"]
    cases += ["2.4703282292062327208e-324", "2.4703282292062328e-324", "1.7976931348623157e308", "1.7976931348623159e308", "65519.99", "65520", "65504", "2049", "2051"]
    cases += ["16777217", "16777219", "9007199254740993", "9007199254740992.999999", "3.4028235677973366e38", "3.4028235677973365e38", "5.9604644775390625e-8"]
    cases += ["2.98023223876953125e-8", "2.980232238769531251e-8", "2.98023223876953124e-8", "7.006492321624085e-46", "7.0064923216240853546186479164495e-46", "0." + "0" * 4000 + "1"]
    for i in range(0, len(cases), 300):
        part = cases[i : i + 300]
        got, _ = read(oracle, f"[{','.join(part)}]", **{"": dtype})
        for text, v in zip(part, got[""]):
            assert bits(v) == nearest(text, dtype), (SEED, dtype, text)
            if dtype == "float64":
                assert bits(v) == bits(np.float64(float(text))) and (text == "-0" or bits(v) == bits(np.float64(json.loads(text))))


def test_every_float16(oracle):
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    got, _ = read(oracle, json.dumps(finite.tolist()), **{"": "float16"})
    assert bits(got[""]) == bits(finite)
    ok, text = write(oracle, {"": tensor(finite)})
    assert ok and bits(np.array(json.loads(text), np.float16)) == bits(finite)


@pytest.mark.parametrize("dtype", FLOATS)
def test_no_numbers(oracle, dtype):
    got, _ = read(oracle, "[[null, 1],[2,null]]", **{"": dtype})
    assert np.isnan(got[""]).tolist() == [[True, False], [False, True]]
    for bad in (math.nan, math.inf, -math.inf):
        ok, error = write(oracle, {"/a": tensor(np.array([1, 2, bad], dtype))})
        assert not ok and "element 2" in error and '"/a"' in error


def test_writing_is_python_s(oracle):
    rng = random.Random(SEED)
    values = [struct.unpack("<d", struct.pack("<Q", rng.getrandbits(64)))[0] for _ in range(20000)]
    values += [rng.gauss(0, 1) * 10.0 ** rng.randint(-25, 30) for _ in range(20000)]
    values += [rng.choice([1, -1]) * rng.randrange(10**9) / 10 ** rng.randint(0, 12) for _ in range(5000)]
    values += [2.0**k for k in range(-1074, 1024)] + [math.nextafter(2.0**k, 0) for k in range(-1073, 1024)] + [10.0**k for k in range(-323, 309)]
    values += [0.0, -0.0, 1e16, 1e15, 9999999999999998.0, 123456789012345680.0, 1e-4, 1e-5, 9e-5, 5e-324, 1.7976931348623157e308, 1e22, 1e23, 9007199254740993.0]
    values = [v for v in values if math.isfinite(v)]
    ok, text = write(oracle, {"": tensor(np.array(values))})
    assert ok
    for v, t in zip(values, text[1:-1].split(",")):
        assert t == repr(v), SEED


def test_writing_float32(oracle):
    """What is written reads back as the same float32, directly and by way of a float64, and is rarely longer than NumPy's."""
    nprng = np.random.default_rng(SEED)
    a = np.frombuffer(nprng.bytes(4 * 30000), np.float32)
    powers = [np.float32(2.0**k) for k in range(-149, 128)]
    a = np.concatenate([a[np.isfinite(a)], nprng.normal(0, 1, 20000).astype(np.float32), powers, [np.nextafter(p, np.float32(0)) for p in powers]]).astype(np.float32)
    ok, text = write(oracle, {"": tensor(a)})
    assert ok
    longer = 0
    for v, t in zip(a, text[1:-1].split(",")):
        assert bits(np.float32(float(t))) == bits(v) and nearest(t, "float32") == bits(v), t
        digits = lambda s: len(s.lower().split("e")[0].replace(".", "").strip("-").strip("0"))  # noqa: E731
        if abs(v) >= 2**24 or v != math.floor(v):
            longer += digits(t) > digits(np.format_float_scientific(v))
    assert longer < len(a) / 500, longer


# --- what is none ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, place, what",
    [
        ("[[1,2],[3]]", "at [1]", "fewer elements"),
        ("[[1,2],[3,4,5]]", "at [1]", "more elements"),
        ("[[1,2],3]", "at [1]", "no array"),
        ("[1,[2]]", "at [1]", "an array where"),
        ("[[[1],[2]],[[3],4]]", "at [1][1]", "no array"),
        ("[[],[1]]", "at [1]", "more elements"),
        ("[[],[[]]]", "at [1][0]", "an array where"),
        ('[1,"2"]', "at [1]", "a string"),
        ("[1,{}]", "at [1]", "an object"),
        ("[1,true]", "at [1]", "a boolean"),
        ('"x"', "it has", "a string"),
        ("{}", "it has", "an object"),
        ("[" * 33 + "1" + "]" * 33, "at [0][0]", "32 dimensions"),
    ],
)
def test_mismatches(oracle, text, place, what):
    for dtype in ("uint8", "float32"):
        for outer, path in ((text, ""), ('{"a":1,"o":' + text + "}", "/o")):
            error = read(oracle, outer, **{path: dtype})
            assert isinstance(error, str) and place in error and what in error and f'"{path}"' in error and dtype in error, error


def test_booleans(oracle):
    got, _ = read(oracle, "[true,false,1,0,1.0]", **{"": "bool"})
    assert got[""].tolist() == [True, False, True, False, True]
    for bad in ("2", "-1", "null", '"true"', "0.5"):
        assert isinstance(read(oracle, f"[true,{bad}]", **{"": "bool"}), str), bad
    assert "null" in read(oracle, "[null]", **{"": "uint8"})


def test_paths(oracle):
    text = '{"a":{"b":[1,2],"c":{"d":[[3]]}},"":{"":[4]},"l":[[5],{"m":[6]},7],"\\u00e9":[8],"e":{},"k":"v"}'
    got, rest = read(oracle, text, **{"/a/b": "uint8", "/a/c/d": "int64", "//": "uint8", "/l/1/m": "uint8", "/l/2": "float32", "/é": "uint8", "/no": "uint8", "/e/x": "uint8", "/k/x": "uint8"})
    assert {k: v.tolist() for k, v in got.items()} == {"/a/b": [1, 2], "/a/c/d": [[3]], "//": [4], "/l/1/m": [6], "/l/2": 7.0, "/é": [8]}
    assert json.loads(rest) == {"a": {"c": {}}, "": {}, "l": [[5], {}, None], "e": {}, "k": "v"}
    # Untouched where nothing is found; of members that come twice the last one counts.
    assert read(oracle, ' {"x" : 1.50}', **{"/y": "uint8"}) == ({}, b' {"x" : 1.50}')
    got, rest = read(oracle, '{"x":[1],"y":{"z":[3]},"x":[2,2],"y":{"w":1}}', **{"/x": "uint8", "/y/z": "uint8"})
    assert {k: v.tolist() for k, v in got.items()} == {"/x": [2, 2]} and json.loads(rest) == {"y": {"w": 1}}
    assert read(oracle, "[1]", **{"/x": "uint8"})[0] == {} and read(oracle, "[1,2]", **{"/-": "uint8", "/01": "uint8"})[0] == {}
    assert read(oracle, '{"a":[1]}', **{"/a": "uint8"})[1] == b""


def test_paths_of_actions(oracle):
    one = tensor(np.array([1, 2], np.uint8))
    ok, text = write(oracle, {"/a/b": one, "/a/c/0": one, "/x~1y": one, '/q"\n': one}, b'{"k":[1.50],"a":{"z":1},"e":{}}')
    assert ok and json.loads(text) == {"k": [1.5], "a": {"z": 1, "b": [1, 2], "c": {"0": [1, 2]}}, "e": {}, "x/y": [1, 2], 'q"\n': [1, 2]} and "1.50" in text
    assert write(oracle, {}, b"") == (True, "{}") and write(oracle, {}, b"[1]") == (True, "[1]") and write(oracle, {"": one}) == (True, "[1,2]")
    assert write(oracle, {"/s": tensor(np.float32(0.1))}) == (True, '{"s":0.1}')
    assert write(oracle, {"/s": tensor(np.zeros((2, 0, 3), np.uint8))}) == (True, '{"s":[[],[]]}')
    for tensors, rest, what in [
        ({"a": one}, b"", "JSON Pointer"),
        ({"/a~": one}, b"", "JSON Pointer"),
        ({"/" + "a" * 2000: one}, b"", "bytes"),
        ({"/a": one, "/a/b": one}, b"", "lies in the other"),
        ({"": one, "/b": one}, b"", "lies in the other"),
        ({"/a": one}, b'{"a":1}', "a member that json has"),
        ({"/a/b": one}, b'{"a":[]}', "no object"),
        ({"/a": one}, b"[]", "JSON object"),
        ({"/a": one}, b"{", "JSON"),
        ({"": one}, b"{}", "whole payload"),
        ({f"/{i}": one for i in range(65)}, b"", "64"),
    ]:
        ok, error = write(oracle, tensors, rest)
        assert not ok and what in error, (tensors.keys(), error)


def test_bad_tensors(oracle):
    for t, what in [
        (payload_pb2.Tensor(shape=[1], data=b"1"), "dtype"),
        (payload_pb2.Tensor(dtype=99, shape=[1], data=b"1"), "dtype"),
        (payload_pb2.Tensor(dtype=6, shape=[-1], data=b"1"), "negative"),
        (payload_pb2.Tensor(dtype=6, shape=[2], data=b"1"), "bytes of data"),
        (payload_pb2.Tensor(dtype=8, shape=[1], data=b"123"), "bytes of data"),
        (payload_pb2.Tensor(dtype=6, shape=[2**32, 2**32], data=b""), "bytes of data"),
        (payload_pb2.Tensor(dtype=6, shape=[2**62, 4, 2**62], data=b""), "bytes of data"),
        (payload_pb2.Tensor(dtype=6, shape=[2**40, 0], data=b""), "no elements"),
        (payload_pb2.Tensor(dtype=6, shape=[2**40, 2**40, 0], data=b""), "no elements"),
        (payload_pb2.Tensor(dtype=6, shape=[0], data=b"1"), "has data"),
        (payload_pb2.Tensor(dtype=6, shape=[1] * 33, data=b"1"), "32 dimensions"),
    ]:
        ok, error = write(oracle, {"/a": t})
        assert not ok and what in error and '"/a"' in error, (error, what)
    assert write(oracle, {"/a": payload_pb2.Tensor(dtype=6, shape=[1] * 32, data=b"1")})[0]
    assert write(oracle, {"/a": payload_pb2.Tensor(dtype=6, shape=[0, 2**62], data=b"")}) == (True, '{"a":[]}')


def test_specs(oracle):
    def refused(*specs):
        request = pb.StepRequest(tensors=[payload_pb2.TensorSpec(path=p, dtype=d) for p, d in specs])
        ok, error = run(oracle, b"t", request.SerializeToString(), b"{}")
        return "" if ok else error.decode()

    assert refused() and "PAYLOAD_FORMAT_TENSORS" in refused()
    assert "tensors[0].path" in refused(("x", 6)) and "tensors[0].path" in refused(("/x~2", 6)) and "tensors[0].path" in refused(("/" * 65, 6))
    assert "tensors[1].path" in refused(("/x", 6), ("/x", 7)) and "tensors[1].path" in refused(("/x", 6), ("/x/y", 6))
    assert "tensors[1].path" in refused(("/x/y", 6), ("/x", 6)) and "tensors[1].path" in refused(("/x", 6), ("", 6))
    assert "tensors[0].dtype" in refused(("/x", 0)) and "tensors[0].dtype" in refused(("/x", 13)) and "tensors[0].dtype" in refused(("/x", -1))
    assert "64" in refused(*((f"/{i}", 6) for i in range(65)))
    assert refused(*((f"/{i}", 6) for i in range(64))) == "" and refused(("/x", 6), ("/xy", 6), ("/x~1y", 6)) == ""
