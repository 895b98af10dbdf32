#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Lays the libmicrohttpd of Debian 13 (1.0) into build/microhttpd1, for `make microhttpd1`: its library runs on Debian 12, too. By apt, from where this machine gets its
# own packages, with lists of its own, so that nothing else is taken from there. What is there already is not asked for again.
set -eu
cd "$(dirname "$0")/.."
to=$PWD/build/microhttpd1
[ ! -e "$to/ready" ] || exit 0
echo "libmicrohttpd of Debian 13 into build/microhttpd1"
rm -rf "$to"
mkdir -p "$to/lists/partial" "$to/cache/archives/partial"
from=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
[ -n "$from" ] || { echo "microhttpd1: apt has no source of Debian's" >&2; exit 1; }
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $from trixie main" >"$to/sources.list"
debian13() {
  apt-get -qq -o Dir::State::Lists="$to/lists" -o Dir::Cache="$to/cache" -o Dir::Etc::SourceList="$to/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}
debian13 update
(cd "$to" && debian13 download libmicrohttpd-dev libmicrohttpd12t64)
for package in "$to"/*.deb; do dpkg-deb -x "$package" "$to"; done
rm -rf "$to"/*.deb "$to/lists" "$to/cache"
(cd "$to" && ln -s usr/lib/*-linux-gnu* lib)
touch "$to/ready"
