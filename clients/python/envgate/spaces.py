# SPDX-License-Identifier: Apache-2.0
"""Gymnasium's spaces and an environment's JSON: which member is which array, and which spaces a JSON Schema speaks of.

A space of numbers is one array at one path. A Dict's members lie at the path and their key, a Tuple's at the path and their index. Paths are JSON
Pointers (RFC 6901), as in the API's TensorSpec.
"""

import math
import string
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from .v1 import payload_pb2

ARRAYS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
NUMBERS = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)), "float16", "float32", "float64")
DTYPES = {np.dtype(name): getattr(payload_pb2, f"DTYPE_{name.upper()}") for name in NUMBERS}
TEXT_LENGTH = 1 << 20  # of texts whose schema has no maxLength


class AnyText(spaces.Text):
    """Texts of any characters: JSON Schemas name none. Samples are printable."""

    def __init__(self, max_length):
        super().__init__(max_length, min_length=0, charset=string.printable)

    def contains(self, x):
        return isinstance(x, str) and len(x) <= self.max_length


@dataclass(frozen=True)
class Leaf:
    """A part of a space that is one value in the JSON: an array of numbers, or (dtype None) anything else."""

    path: str
    space: spaces.Space
    dtype: np.dtype | None
    shape: tuple

    @property
    def keys(self):
        """The path's parts."""
        return [k.replace("~1", "/").replace("~0", "~") for k in self.path.split("/")[1:]]


def join(path, key):
    return f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}"


def leaves(space, path):
    """The parts of a space that lies at a path."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, member in space.spaces.items() for leaf in leaves(member, join(path, key))]
    if isinstance(space, spaces.Tuple):
        return [leaf for i, member in enumerate(space.spaces) for leaf in leaves(member, join(path, i))]
    if isinstance(space, ARRAYS):
        return [Leaf(path, space, np.dtype(space.dtype), tuple(space.shape))]
    return [Leaf(path, space, None, ())]


def all_arrays(parts):
    return all(leaf.dtype is not None for leaf in parts)


def gather(space, path, values):
    """What Gymnasium calls a batch of the space, of the leaves' own batches by their paths."""
    if isinstance(space, spaces.Dict):
        return {key: gather(member, join(path, key), values) for key, member in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(gather(member, join(path, i), values) for i, member in enumerate(space.spaces))
    return values[path]


def scatter(space, path, batch, values):
    """The reverse: puts the leaves' batches into a dict by their paths."""
    if isinstance(space, spaces.Dict):
        for key, member in space.spaces.items():
            scatter(member, join(path, key), batch[key], values)
    elif isinstance(space, spaces.Tuple):
        for i, member in enumerate(space.spaces):
            scatter(member, join(path, i), batch[i], values)
    else:
        values[path] = batch
    return values


def pick(value, keys):
    """The member of a JSON value that a path leads to."""
    for key in keys:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def put(value, keys, member):
    """The JSON value with a member at a path, its containers made as needed."""
    if not keys:
        return member
    value = {} if value is None else value
    value[keys[0]] = put(value.get(keys[0]), keys[1:], member)
    return value


def has_tuple(space):
    """Whether a JSON array of unlike members is needed, which tensors don't make."""
    return isinstance(space, spaces.Tuple) or (isinstance(space, spaces.Dict) and any(map(has_tuple, space.spaces.values())))


def to_json_value(space, sample):
    """A sample as JSON has it."""
    if isinstance(space, spaces.Dict):
        return {key: to_json_value(member, sample[key]) for key, member in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return [to_json_value(member, s) for member, s in zip(space.spaces, sample, strict=True)]
    return np.asarray(sample).astype(space.dtype, casting="same_kind", copy=False).tolist() if isinstance(space, ARRAYS) else sample


# --- spaces of a JSON Schema ---------------------------------------------------------------------------------------------------------------

OF_ALL_ACTIONS = {"metadata"}
OF_ALL_OBSERVATIONS = {"metadata", "reward", "done", "terminated", "truncated"}


def _resolved(schema, root):
    """The schema that a $ref or an Optional stands for."""
    for _ in range(8):
        if "$ref" in schema:
            target = root
            for key in schema["$ref"].removeprefix("#/").split("/"):
                target = target.get(key, {})
            schema = target
        elif "anyOf" in schema:
            options = [s for s in schema["anyOf"] if s.get("type") != "null"]
            schema = options[0] if len(options) == 1 else {}
        else:
            break
    return schema


def space_of(schema, root):
    """The space of a schema's values; None where it says too little, as of arrays without a length."""
    schema = _resolved(schema, root)
    kind = schema.get("type")
    shape = []
    while kind == "array":
        if schema.get("minItems") is None or schema.get("minItems") != schema.get("maxItems"):
            return None
        shape.append(schema["maxItems"])
        schema = _resolved(schema.get("items", {}), root)
        kind = schema.get("type")
    if kind == "string":
        return None if shape else AnyText(schema.get("maxLength", TEXT_LENGTH))
    if kind not in ("integer", "number"):
        return None
    low = schema.get("minimum", schema.get("exclusiveMinimum", -math.inf))
    high = schema.get("maximum", schema.get("exclusiveMaximum", math.inf))
    if kind == "number":
        return spaces.Box(low, high, tuple(shape), np.float32)
    if math.isfinite(low) and math.isfinite(high):
        if not shape:
            return spaces.Discrete(high - low + 1, start=low)
        return spaces.Box(low, high, tuple(shape), np.uint8 if 0 <= low and high <= 255 else np.int64)
    bounds = np.iinfo(np.int64)
    return spaces.Box(int(max(low, bounds.min)), int(min(high, bounds.max)), tuple(shape), np.int64)


def from_schema(schema, leave_out):
    """(space, path) of an object's schema: the one member that has a space, or a Dict of those that have. None when there is none."""
    found = {}
    for name, member in _resolved(schema, schema).get("properties", {}).items():
        space = None if name in leave_out else space_of(member, schema)
        if space is not None:
            found[name] = space
    if len(found) == 1:
        ((name, space),) = found.items()
        return space, join("", name)
    return (spaces.Dict(found), "") if found else None
