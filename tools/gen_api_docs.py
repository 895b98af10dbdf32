# SPDX-License-Identifier: Apache-2.0
"""Writes the reference part of docs/API.md from the comments of proto/, and the table of reasons from the program.

usage: gen_api_docs.py API.pb ENVGATE DOC          rewrites the part of DOC between the markers
       gen_api_docs.py API.pb ENVGATE DOC --check  exits with 1 when that would change it
"""

import subprocess
import sys

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

BEGIN, END = "<!-- reference: made by tools/gen_api_docs.py -->\n", "<!-- end of reference -->\n"
F = descriptor_pb2.FieldDescriptorProto
TYPES = {v: k[5:].lower() for k, v in F.Type.items()}


def comments(file):
    """Leading comments by path."""
    return {tuple(l.path): " ".join(l.leading_comments.split()) for l in file.source_code_info.location}


def type_of(field):
    if field.type in (F.TYPE_MESSAGE, F.TYPE_ENUM):
        name = field.type_name.lstrip(".").removeprefix("envgate.v1.")
    else:
        name = TYPES[field.type]
    if field.label == F.LABEL_REPEATED:
        name += "[]"
    return name + ("?" if field.proto3_optional else "")


def cell(text):
    return text.replace("|", "\\|")


def message(out, m, path, said, prefix=""):
    out.append(f"\n#### {prefix}{m.name}\n\n{said.get(path, '')}\n")
    if m.field:
        out.append("| Field | Type | |\n| --- | --- | --- |")
        for i, field in enumerate(m.field):
            out.append(f"| `{field.name}` | {type_of(field)} | {cell(said.get(path + (2, i), ''))} |")
    for i, e in enumerate(m.enum_type):
        enum(out, e, path + (4, i), said, prefix + m.name + ".")


def enum(out, e, path, said, prefix=""):
    out.append(f"\n#### {prefix}{e.name}\n\n{said.get(path, '')}\n")
    out.append("| Value | Number | |\n| --- | --- | --- |")
    for i, value in enumerate(e.value):
        out.append(f"| `{value.name}` | {value.number} | {cell(said.get(path + (2, i), ''))} |")


def message_of(type_name, streams):
    return ("stream of " if streams else "") + type_name.split(".")[-1]


def http_of(method):
    rule = method.options.Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    return f"`{verb.upper()} {getattr(rule, verb)}` · " if verb else ""


def reference(image, program):
    files = descriptor_pb2.FileDescriptorSet.FromString(open(image, "rb").read()).file
    ours = [f for f in files if f.package == "envgate.v1"]
    out = ["\n## Reasons of errors\n"]
    out.append(subprocess.run([program, "docs", "reasons"], check=True, capture_output=True, text=True).stdout.strip())
    for file in ours:
        said = comments(file)
        for i, service in enumerate(file.service):
            out.append(f"\n## {service.name}\n\n{said.get((6, i), '')}\n")
            for j, method in enumerate(service.method):
                asked, given = message_of(method.input_type, method.client_streaming), message_of(method.output_type, method.server_streaming)
                out.append(f"### {method.name}\n\n{http_of(method)}{asked} → {given}\n")
                out.append(said.get((6, i, 2, j), "") + "\n")
    out.append("## Messages")
    for file in ours:
        said = comments(file)
        for i, m in enumerate(file.message_type):
            message(out, m, (4, i), said)
        for i, e in enumerate(file.enum_type):
            enum(out, e, (5, i), said)
    return "\n".join(out) + "\n"


def main():
    image, program, doc = sys.argv[1:4]
    text = open(doc).read()
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    made = head + BEGIN + reference(image, program) + END + tail
    if "--check" in sys.argv:
        sys.exit(made != text and f"{doc} is not what {sys.argv[0]} makes of proto/: run make docs")
    open(doc, "w").write(made)


main()
