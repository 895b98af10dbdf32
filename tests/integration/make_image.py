# SPDX-License-Identifier: Apache-2.0
"""Root filesystems for the docker tests, made without a registry: this machine's own programs with the shared libraries they need.

openenv_tar: tests/envs/echo_env with the Python and the packages of a virtual environment; serves on port 8000 with OPENENV_COMMAND and OPENENV_ENV.
program_tar: one program. Both are kept in build/docker-image/ and made anew when what they are made of changes.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = ROOT / "tests/envs/echo_env"
OUT = ROOT / "build/docker-image"
PYTHON, SITE, APP = "/usr/bin/python3", "/opt/site", "/opt/app"  # in the image
OPENENV_ENV = (f"PYTHONPATH={SITE}:{APP}", "PYTHONUNBUFFERED=1", "ECHO_MAX_SESSIONS=4")
OPENENV_COMMAND = (PYTHON, "-m", "uvicorn", "server.app:app", "--host", "0.0.0.0", "--port", "8000")
# Of the standard library's directory: other packages, and what no server imports.
NOT_NEEDED = {"site-packages", "dist-packages", "test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3"}


def _shared_libraries(programs):
    """What the dynamic linker loads for these, itself included: absolute paths."""
    listing = subprocess.run(["ldd", *map(str, programs)], check=False, capture_output=True, text=True).stdout
    words = (word for line in listing.splitlines() if not line.endswith(":") for word in line.split())
    return sorted({word for word in words if word.startswith("/")})


def _add(tar, path, name=None):
    """Adds a file (a link's target) under its own path or another, with root as the owner."""
    info = tar.gettarinfo(os.path.realpath(path), str(name or path).lstrip("/"))
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    with open(path, "rb") as file:
        tar.addfile(info, file)


def _files(top, skip=()):
    for directory, subdirectories, names in os.walk(top):
        subdirectories[:] = sorted(set(subdirectories) - set(skip))
        yield from (pathlib.Path(directory, name) for name in sorted(names))


def _add_libraries(tar, programs, below=()):
    """The libraries of all programs, but for those that lie in directories which are added anyway."""
    for library in _shared_libraries(programs):
        if not library.startswith(tuple(f"{directory}/" for directory in below)):
            _add(tar, library)


def _add_tmp(tar):
    info = tarfile.TarInfo("tmp")
    info.type, info.mode = tarfile.DIRTYPE, 0o1777
    tar.addfile(info)


def _make(name, key, write):
    """build/docker-image/NAME.tar, by write(tar) if it was not made of the same `key` before."""
    OUT.mkdir(parents=True, exist_ok=True)
    path, stamp = OUT / f"{name}.tar", OUT / f"{name}.stamp"
    if not (path.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == key):
        part = OUT / f"{name}.{os.getpid()}.part"
        with tarfile.open(part, "w", format=tarfile.GNU_FORMAT) as tar:
            write(tar)
        part.rename(path)
        stamp.write_text(key, encoding="utf-8")
    return path


def _layout(venv):
    """The interpreter of a virtual environment, its standard library and its packages."""
    ask = "import json, os, sys, sysconfig as s; print(json.dumps([os.path.realpath(sys.executable), s.get_path('stdlib'), s.get_path('purelib')]))"
    done = subprocess.run([venv / "bin/python", "-c", ask], check=True, capture_output=True, text=True)
    return map(pathlib.Path, json.loads(done.stdout))


def openenv_tar(venv):
    python, stdlib, site = _layout(venv)
    project = [path for path in _files(PROJECT, {"__pycache__"}) if path.suffix == ".py"]

    def write(tar):
        library, packages = list(_files(stdlib, NOT_NEEDED)), list(_files(site))
        _add(tar, python, PYTHON)
        for path in library:
            _add(tar, path)
        for top, paths, name in ((site, packages, SITE), (PROJECT, project, APP)):
            for path in paths:
                _add(tar, path, f"{name}/{path.relative_to(top)}")
        _add_tmp(tar)
        _add_libraries(tar, [python, *(p for p in (*library, *packages) if ".so" in p.suffixes)], below=(stdlib, site))

    sources = b"".join(path.read_bytes() for path in (*project, pathlib.Path(__file__)))
    return _make(venv.name, f"{python} {site} {os.stat(site).st_mtime_ns} {hashlib.sha256(sources).hexdigest()}", write)


def builder_tar(program):
    """A base for deploy/Dockerfile's first stage: a shell, the programs that its commands name, and the libraries of `program`, which is built already."""
    shells = {"/bin/sh": "/bin/sh", "/bin/bash": "/bin/bash"}
    tools = {f"/usr/bin/{name}": shutil.which(name) for name in ("ldd", "mkdir", "cp", "ln", "chmod", "tr", "grep", "sort")}
    certificates = "/etc/ssl/certs/ca-certificates.crt"

    def write(tar):
        for name, path in {**shells, **tools}.items():
            _add(tar, path, name)
        if os.path.exists(certificates):
            _add(tar, certificates)
        _add_tmp(tar)
        _add_libraries(tar, [*shells.values(), *tools.values(), program])

    return _make("builder", hashlib.sha256(pathlib.Path(program).read_bytes()).hexdigest(), write)


def program_tar(program):
    """The program lies at /NAME in the image."""
    program = pathlib.Path(program)

    def write(tar):
        _add(tar, program, f"/{program.name}")
        _add_tmp(tar)
        _add_libraries(tar, [program])

    return _make(program.name, hashlib.sha256(program.read_bytes()).hexdigest(), write)

