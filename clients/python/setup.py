# SPDX-License-Identifier: Apache-2.0
"""Puts the API's stubs, envgate.v1, into what is built: those that lie here (as `make stubs` has it), or else new ones, made of the checkout's proto/. All else is
in pyproject.toml."""

import pathlib

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).resolve().parent
PROTO = HERE.parents[1] / "proto"
MADE = (HERE / "envgate/v1").is_dir()


def generate(out):
    """The stubs of all files below proto/envgate, in out/envgate/v1."""
    import grpc_tools
    from google.rpc import status_pb2
    from grpc_tools import protoc

    files = [str(p.relative_to(PROTO)) for p in sorted((PROTO / "envgate").rglob("*.proto"))]
    googleapis = pathlib.Path(status_pb2.__file__).parents[2]
    include = [f"-I{d}" for d in (PROTO, pathlib.Path(grpc_tools.__file__).parent / "_proto", googleapis)]
    if protoc.main(["protoc", *include, f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}", *files]) != 0:
        raise SystemExit("envgate: protoc failed")
    (pathlib.Path(out) / "envgate/v1/__init__.py").touch()


class Build(build_py):
    def run(self):
        super().run()
        if MADE:
            return
        if self.editable_mode:
            raise SystemExit("envgate: its stubs are made when it is built, so it cannot be installed editable; run `pip install` without -e")
        generate(self.build_lib)


setup(packages=["envgate", "envgate.v1"] if MADE else ["envgate"], cmdclass={"build_py": Build})
