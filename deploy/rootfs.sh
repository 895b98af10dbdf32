#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Puts a program and all that it needs to run into a folder, as the files of an image: usage: deploy/rootfs.sh PROGRAM FOLDER
set -eu
program=$1
out=$2
here=${0%/*}

mkdir -p "$out/usr/local/bin" "$out/etc/envgate" "$out/etc/ssl/certs"
cp "$program" "$out/usr/local/bin/envgate"
cp "$here/docker/envgate.json" "$out/etc/envgate/envgate.json"

# Under /usr, with links from where the linker looks, as Debian has it, so that it can be laid over an image of the same Debian.
put_library() {
  case $1 in
  /usr/*) to=$1 ;;
  *)
    to=/usr$1
    top=${1#/}
    top=${top%%/*}
    [ -e "$out/$top" ] || ln -s "usr/$top" "$out/$top"
    ;;
  esac
  mkdir -p "$out${to%/*}"
  cp -L "$1" "$out$to"
}

# What the dynamic linker loads, itself included, and what glibc opens by name when it looks up a host.
for library in $(ldd "$program" | tr ' \t' '\n\n' | grep '^/' | sort -u); do
  put_library "$library"
  case $library in
  */libc.so.6)
    for name in libnss_files.so.2 libnss_dns.so.2 libresolv.so.2; do
      [ ! -e "${library%/*}/$name" ] || put_library "${library%/*}/$name"
    done
    ;;
  esac
done

[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$out/etc/ssl/certs/"
echo 'hosts: files dns' >"$out/etc/nsswitch.conf"
echo 'envgate:x:65532:65532::/tmp:/nonexistent' >"$out/etc/passwd"
echo 'envgate:x:65532:' >"$out/etc/group"
mkdir -p "$out/tmp"
chmod 1777 "$out/tmp"
