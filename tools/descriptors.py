# SPDX-License-Identifier: Apache-2.0
"""Writes the FileDescriptorSet of everything the gateway serves.

usage: descriptors.py PROTOC_OUTPUT OUTPUT
       descriptors.py --list OUTPUT      prints the names of its files

PROTOC_OUTPUT is what protoc made of proto/ and what it imports. Added to it are grpc.health.v1 and grpc.reflection.v1alpha, as
their PyPI packages embed them, and grpc.reflection.v1: the same as v1alpha but for the package's name. Each file stands behind
those that it imports.
"""

import sys

from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2


def embedded(module, path):
    """The file that a generated module embeds, under the path it has in grpc's own repository."""
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    file.name = path
    return file


def reflection_v1():
    file = embedded(reflection_pb2, "grpc/reflection/v1/reflection.proto")
    file.package = "grpc.reflection.v1"
    file.options.Clear()
    file.options.java_package = "io.grpc.reflection.v1"
    file.options.java_outer_classname = "ServerReflectionProto"
    file.options.java_multiple_files = True
    file.options.go_package = "google.golang.org/grpc/reflection/grpc_reflection_v1"

    def renamed(type_name):
        return type_name.replace(".grpc.reflection.v1alpha.", ".grpc.reflection.v1.")

    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = renamed(field.type_name)
    for service in file.service:
        for method in service.method:
            method.input_type = renamed(method.input_type)
            method.output_type = renamed(method.output_type)
    return file


def read(path):
    files = descriptor_pb2.FileDescriptorSet()
    with open(path, "rb") as f:
        files.ParseFromString(f.read())
    return files


def main():
    source, target = sys.argv[1:]
    if source == "--list":
        for file in read(target).file:
            print(file.name)
        return
    files = read(source)
    files.file.append(embedded(health_pb2, "grpc/health/v1/health.proto"))
    files.file.append(embedded(reflection_pb2, "grpc/reflection/v1alpha/reflection.proto"))
    files.file.append(reflection_v1())
    with open(target, "wb") as f:
        f.write(files.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
