#!/usr/bin/env bash
# The image of section g: Debian and six layers of programs and shared files, some 570 MB in 7 layers, as a `docker save` archive.
# Usage: tests/bench/mkimage.sh ARCHIVE     as root, with mmdebstrap; TREE=DIR takes a Debian tree that is there already
# (with the packages below), MIRROR=URL another mirror, SUITE another suite.
set -eu
out=$(readlink -f "$1")
command -v mmdebstrap >/dev/null || [ -n "${TREE:-}" ] || { echo "mkimage.sh: needs mmdebstrap (Debian package of that name) or TREE=DIR" >&2; exit 3; }
work=$(mktemp -d "${BENCH_DIR:-/var/tmp}/wharf-mkimage-XXXXXX")
trap 'rm -rf "$work"' EXIT
suite=${SUITE:-sid}; mirror=${MIRROR:-http://deb.debian.org/debian}
debootstrap() { mmdebstrap --quiet --variant=minbase --mode=root --aptopt='Acquire::Check-Valid-Until "false"' "$@"; }
packages=docker.io,docker-cli,podman,buildah,crun,runc,containerd,skopeo,ca-certificates,iproute2,iptables,nftables,xz-utils,strace,kmod
[ -n "${TREE:-}" ] || { TREE=$work/tree; debootstrap --include=$packages "$suite" "$TREE" "$mirror"; }
mkdir "$work/image"
debootstrap --dpkgopt=path-exclude=/usr/share/doc/* --dpkgopt=path-exclude=/usr/share/man/* --dpkgopt=path-exclude=/usr/share/locale/* --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*' bookworm "$work/image/layer0.tar" "$mirror"

# One directory per layer; what a distribution does not have is left out.
layer() {
  local n=$1 to=$work/layer$1/opt/pkg$1; shift
  mkdir -p "$to"
  for path in "$@"; do [ ! -e "$TREE/$path" ] || cp -a "$TREE/$path" "$to/"; done
  tar --sort=name --numeric-owner --format=pax --pax-option=delete=atime,delete=ctime -C "$work/layer$n" -cf "$work/image/layer$n.tar" opt
  rm -rf "$work/layer$n"
}
layer 1 usr/bin/podman usr/bin/buildah
layer 2 usr/sbin/dockerd usr/bin/docker
layer 3 usr/share
layer 4 usr/lib/x86_64-linux-gnu
layer 5 usr/bin/skopeo usr/bin/containerd
layer 6 usr/lib/docker usr/libexec/docker

cd "$work/image"
diffs= layers= history=
for n in 0 1 2 3 4 5 6; do
  diffs=$diffs${diffs:+,}\"sha256:$(sha256sum "layer$n.tar" | cut -d' ' -f1)\"
  layers=$layers${layers:+,}\"layer$n.tar\"
  history=$history${history:+,}'{"created":"2025-01-01T00:00:00Z","created_by":"layer '$n'"}'
done
printf '{"architecture":"amd64","os":"linux","created":"2025-01-01T00:00:00Z","config":{"Cmd":["true"]},"rootfs":{"type":"layers","diff_ids":[%s]},"history":[%s]}' "$diffs" "$history" > config.json
printf '[{"Config":"config.json","RepoTags":["bench/big:latest"],"Layers":[%s]}]' "$layers" > manifest.json
tar -cf "$out" layer?.tar config.json manifest.json
ls -l "$work/image" | awk '/layer/ {print $NF, $5; sum += $5} END {print "bytes", sum}' >&2
