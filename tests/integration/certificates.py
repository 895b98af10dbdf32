# SPDX-License-Identifier: Apache-2.0
"""Authorities and certificates for tests, made by openssl."""

import subprocess
from collections import namedtuple

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

Pair = namedtuple("Pair", "cert key")


def openssl(*args):
    done = subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def make_ca(folder, name):
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    openssl("req", "-x509", *NEW_KEY, "-days", 2, "-subj", f"/CN={name}", "-keyout", pair.key, "-out", pair.cert)
    return pair


def make_leaf(ca, name, names="IP:127.0.0.1,DNS:localhost", days=2, subject=None):
    folder = ca.cert.parent
    pair, request = Pair(folder / f"{name}.pem", folder / f"{name}.key"), folder / f"{name}.csr"
    openssl("req", *NEW_KEY, "-subj", subject or f"/CN={name}", "-addext", f"subjectAltName={names}", "-keyout", pair.key, "-out", request)
    openssl("x509", "-req", "-in", request, "-CA", ca.cert, "-CAkey", ca.key, "-days", days, "-copy_extensions", "copy", "-out", pair.cert)
    return pair
