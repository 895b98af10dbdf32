# SPDX-License-Identifier: Apache-2.0
"""House rules that no compiler knows: includes point down only, some headers have one home, some functions are banned.

Prints each offence as file:line: text, and exits with 1 when there is one.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
GATEWAY = ROOT / "gateway"

# From the bottom up. A folder may include itself and what stands in a line below its own; folders on one line may include each other.
LAYERS = [
    ["base"],
    ["runtime", "config"],
    ["auth"],
    ["upstream"],
    ["worker"],
    ["providers"],
    ["pool"],
    ["session"],
    ["transcode"],
    ["rpc"],
    ["api"],
    ["front"],
    ["cli", "reference", ""],  # "" is gateway/ itself: main.c, serve.c
]
# The reference worker is a program of its own that shares the bottom layers only, and how numbers are written.
ONLY = {"reference": {"base", "runtime", "config", "transcode", "reference"}}

# A library's header, and who may include it.
HOMES = {
    "microhttpd.h": ("front/http", "reference/"),
    "nghttp2/nghttp2.h": ("front/grpc",),
    "curl/curl.h": ("upstream/", "serve.c", "cli/health.c", "cli/client.c"),
    "wslay/wslay.h": ("upstream/ws", "reference/"),
    "zlib.h": ("base/gzip",),
    "openssl/ssl.h": ("front/tls", "auth/peer.c", "upstream/stream.c"),
    "cjson/cJSON.h": ("config/", "providers/docker"),
}

BANNED = {
    "strcpy": "snprintf or memcpy with a length",
    "strcat": "struct buf",
    "sprintf": "snprintf",
    "vsprintf": "vsnprintf",
    "gets": "fgets",
    "strtok": "struct str",
    "atoi": "strtol",
    "atol": "strtol",
    "atof": "strtod",
    "alloca": "struct arena",
    "rand": "random_bytes",
    "random": "random_bytes",
    "system": "providers/child.h",
    "popen": "providers/child.h",
    "localtime": "UTC: gmtime_r",
    "gmtime": "gmtime_r",
    "mktemp": "mkstemp",
    "tmpnam": "mkstemp",
}
BANNED_CALL = re.compile(r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\(")
INCLUDE = re.compile(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]')

rank = {folder: i for i, row in enumerate(LAYERS) for folder in row}
offences = []


def offend(path, number, text):
    offences.append(f"{path.relative_to(ROOT)}:{number}: {text}")


def check_include(path, number, folder, target):
    relative = str(path.relative_to(GATEWAY))
    homes = HOMES.get(target)
    if homes and not relative.startswith(homes):
        offend(path, number, f"<{target}> is included by {', '.join(homes)} only")
    if not (GATEWAY / target).exists():
        return
    below = str(pathlib.PurePath(target).parent)
    below = "" if below == "." else below
    if rank[below] > rank[folder]:
        offend(path, number, f'"{target}" is a layer above {folder or "gateway"}/')
    if folder in ONLY and below not in ONLY[folder]:
        offend(path, number, f'{folder}/ stands alone and may not include "{target}"')


def check(path):
    parent = path.relative_to(GATEWAY).parent
    folder = "" if str(parent) == "." else str(parent)
    if folder not in rank:
        offend(path, 1, f"{folder}/ is in no layer (tests/lint/layers.py)")
        return
    lines = path.read_text().splitlines()
    if "SPDX-License-Identifier: Apache-2.0" not in lines[0]:
        offend(path, 1, "no SPDX line")
    if len(lines) > 900:
        offend(path, len(lines), "more than 900 lines: split by purpose")
    for number, line in enumerate(lines, 1):
        found = INCLUDE.match(line)
        if found:
            check_include(path, number, folder, found.group(1))
            continue
        code = re.sub(r'"(\\.|[^"\\])*"', '""', line).split("//")[0]
        for call in BANNED_CALL.finditer(code):
            offend(path, number, f"{call.group(1)} is banned: use {BANNED[call.group(1)]}")
        if re.search(r"\b(TODO|FIXME|XXX)\b", line):
            offend(path, number, "work that is put off: do it, or file it")


for source in sorted(GATEWAY.rglob("*.[ch]")):
    check(source)
print("\n".join(offences) if offences else "layers: ok")
sys.exit(bool(offences))
