#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Gets what the build, the run and the tests need. As root it installs what is missing of Debian's packages; otherwise it says what to install.
# Everything else goes into build/. What is there already is not asked for again, so a second call takes no time and no network.
#
# usage: tools/deps.sh venv    Python packages of the build (build/venv); wants Debian's packages to be there
#        tools/deps.sh venv DIRECTORY LIST   the packages of another list
#        tools/deps.sh run     what `make` and `make run` need
#        tools/deps.sh bench   and what `make bench` needs
#        tools/deps.sh conformance   and what `make conformance` needs
#        tools/deps.sh all     and what `make test` and `make lint` need
#        tools/deps.sh grpcurl
#        tools/deps.sh debian PACKAGE…   these of Debian's
set -eu
cd "$(dirname "$0")/.."
what=$1

build_packages="gcc libc6-dev make binutils python3 python3-venv protobuf-compiler libprotobuf-dev protobuf-c-compiler libprotobuf-c-dev
  libmicrohttpd-dev libnghttp2-dev libcurl4-openssl-dev libssl-dev libwslay-dev libcjson-dev libuv1-dev uthash-dev zlib1g-dev ca-certificates"
bench_packages="nginx-light nghttp2-client libnghttp2-dev linux-perf strace procps"
test_packages="clang clang-format clang-tidy libclang-rt-14-dev libcmocka-dev curl git openssl procps docker.io docker-registry iproute2 systemd"

debian() {
  missing=
  for p in "$@"; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q '^install ok installed' || missing="$missing $p"
  done
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" != 0 ]; then
    echo "envgate: these Debian packages are missing; install them as root:" >&2
    echo "  apt-get install -y --no-install-recommends$missing" >&2
    exit 1
  fi
  echo "installing Debian packages:$missing"
  export DEBIAN_FRONTEND=noninteractive
  # A service that the package would start (nginx, docker) is none of ours: the tests start their own.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  # shellcheck disable=SC2086
  apt-get install -y -qq --no-install-recommends $missing >build/apt.log 2>&1 ||
    { apt-get update -qq >build/apt.log 2>&1 && apt-get install -y -qq --no-install-recommends $missing >>build/apt.log 2>&1; } ||
    { tail -n 20 build/apt.log >&2; exit 1; }
}

# A virtual environment with a list of packages: venv DIRECTORY REQUIREMENTS. Made anew when the list has changed.
venv() {
  if [ -e "$1/ready" ] && cmp -s "$2" "$1/ready"; then
    return 0
  fi
  echo "Python packages of $2 into $1"
  rm -rf "$1"
  /usr/bin/python3 -m venv "$1"
  "$1/bin/pip" install -q --disable-pip-version-check -r "$2"
  cp "$2" "$1/ready"
}

# grpcurl by the Go proxy. Debian's own Go (1.19) is old; this version builds with it.
grpcurl() {
  [ -x build/tools/grpcurl ] && return 0
  command -v go >/dev/null || debian golang-go
  echo "grpcurl into build/tools"
  GOBIN="$PWD/build/tools" GOFLAGS=-mod=mod go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.8.7
}

mkdir -p build
case $what in
venv) venv "${2:-build/venv}" "${3:-tools/requirements.txt}" ;;
grpcurl) grpcurl ;;
debian)
  shift
  debian "$@"
  ;;
run | bench | conformance | all)
  # shellcheck disable=SC2086
  debian $build_packages
  [ "$what" != bench ] || debian $bench_packages
  [ "$what" != conformance ] || debian nghttp2-server
  # shellcheck disable=SC2086
  [ "$what" != all ] || debian $test_packages
  venv build/venv tools/requirements.txt
  if [ "$what" = all ]; then
    for list in tests/envs/requirements-*.txt; do
      name=${list#tests/envs/requirements-}
      venv "build/venv-${name%.txt}" "$list"
    done
    grpcurl
  fi
  ;;
*)
  sed -n 's/^# \{0,1\}//p' "$0" | head -n 12
  exit 2
  ;;
esac
