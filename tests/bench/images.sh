#!/usr/bin/env bash
# Section g of run.sh: pull, push, load and save of an image of some 600 MB in 7 layers, beside what the bare tools need for
# the same bytes. Times of a busy machine are noisy: the daemon's own cpu seconds (user+sys) stand beside them.
# Usage: tests/bench/images.sh SOCKET PID DATA_ROOT DIRECTORY [ROUNDS]   of a daemon that runs in a network namespace of its own
# Needs skopeo and docker-registry (Debian's names), and mmdebstrap, or IMAGE=an archive that mkimage.sh made.
set -eu
sock=$1 daemon=$2 data=$3 work=$4 rounds=${5:-3}
here=$(cd "$(dirname "$0")" && pwd)
for program in skopeo docker-registry curl docker; do
  PATH=$PATH:/usr/sbin command -v $program >/dev/null || { echo "images: not measured, $program is not installed"; exit 0; }
done
mkdir -p "$work"
image=${IMAGE:-$work/big.tar}
[ -e "$image" ] || "$here/mkimage.sh" "$image" || { echo "images: not measured, the image could not be made (mmdebstrap)"; exit 0; }
export DOCKER_HOST=unix://$sock
inside() { nsenter -t "$daemon" -n "$@"; }
name=127.0.0.1:5000/bench/big:latest target=127.0.0.1:5001/push/big:latest
# One to pull from and one to push to, which is emptied each time.
serve() {
  printf 'version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: 127.0.0.1:%s}\n' "$work/registry$1" "$1" > "$work/$1.yml"
  # Not by a function, whose process would be a shell that stays in between.
  nsenter -t "$daemon" -n env PATH="$PATH:/usr/sbin" docker-registry serve "$work/$1.yml" > "$work/$1.log" 2>&1 &
  for _ in $(seq 100); do inside curl -fs "http://127.0.0.1:$1/v2/" >/dev/null && return; sleep 0.1; done
}
serve 5000; from=$!
serve 5001; to=$!
trap 'kill $from $to 2>/dev/null || true; wait $from $to 2>/dev/null || true; docker image rm -f "$name" bench/big:latest >/dev/null 2>&1 || true; rm -rf "$work"/{registry5000,registry5001,out,layers,copy,tree,saved.tar}' EXIT

ticks=$(getconf CLK_TCK)
cpu() { awk -v t="$ticks" '{printf "%.2f", ($14 + $15) / t}' /proc/"$1"/stat; }
now() { date +%s.%N; }
# Wall clock, cpu of the daemon and of the registry, and the daemon's largest resident size meanwhile.
measure() {
  local what=$1; shift
  sync; echo 5 > /proc/"$daemon"/clear_refs 2>/dev/null || true
  local c0 r0 q0 t0 t1
  c0=$(cpu "$daemon") r0=$(cpu $from) q0=$(cpu $to) t0=$(now)
  "$@" > "$work/out" 2>&1 || { echo "$what FAILED: $(tail -1 "$work/out")"; return 0; }
  t1=$(now)
  awk -v w="$what" -v a="$t0" -v b="$t1" -v c0="$c0" -v c1="$(cpu "$daemon")" -v r0="$r0" -v r1="$(cpu $from)" -v q0="$q0" -v q1="$(cpu $to)" \
    -v m="$(awk '/VmHWM/ {print $2 / 1024}' /proc/"$daemon"/status)" \
    'BEGIN {printf "%-34s %6.2f s   daemon cpu %5.2f s, peak %4.0f MiB   registry cpu %5.2f s\n", w, b - a, c1 - c0, m, r1 - r0 + q1 - q0}'
}
# What a bare tool needs: wall clock, and its own cpu.
bare() {
  local what=$1 TIMEFORMAT='%R %U %S'; shift; sync
  { time "$@" > "$work/out" 2>&1 || echo "  bare: $what FAILED: $(tail -1 "$work/out")"; } 2> "$work/time"
  awk -v w="$what" 'NF == 3 {printf "  bare: %-30s %6.2f s   cpu %5.2f s\n", w, $1, $2 + $3}' "$work/time"
}
gone() { docker image rm -f "$name" bench/big:latest >/dev/null 2>&1 || true; docker image prune -f >/dev/null; }
used() { du -s --block-size=1 "$data" | cut -f1; }

# The registry's copy is skopeo's, compressed as Go does; ours goes beside it.
inside skopeo copy -q --dest-tls-verify=false "docker-archive:$image" "docker://$name"
mkdir -p "$work/layers"; tar -xf "$image" -C "$work/layers"
echo "image: $(cat "$work"/layers/*.tar | wc -c) bytes in $(ls "$work"/layers/*.tar | wc -l) layers; $(du -sb "$work/registry5000" | cut -f1) bytes in the registry"

floor() {
  bare "fetch (skopeo to a directory)" inside skopeo copy -q --src-tls-verify=false "docker://$name" "dir:$work/copy"
  bare "gzip -d, sha256 of both sides" sh -c "cd '$work/copy' && for l in \$(ls -S | head -7); do sha256sum < \$l; gzip -dc < \$l | sha256sum; done"
  rm -rf "$work/copy" "$work/tree"; mkdir "$work/tree"
  bare "tar -x of 7 layers and sync" sh -c "for l in '$work'/layers/*.tar; do mkdir -p '$work/tree/'\$(basename \$l) && tar --numeric-owner --xattrs -xpf \$l -C '$work/tree/'\$(basename \$l); done; sync -f '$work/tree'"
  bare "cp of the archive and sync" sh -c "cp '$image' '$work/saved.tar' && sync -f '$work/saved.tar'"
  bare "pigz -1 or gzip -1" sh -c "if command -v pigz >/dev/null; then cat '$work'/layers/*.tar | pigz -1 | wc -c; else ls '$work'/layers/*.tar | xargs -P 2 -n 1 gzip -1c | wc -c; fi"
}

for round in $(seq "$rounds"); do
  [ "$round" -gt 1 ] || floor
  gone; before=$(used)
  measure "pull and unpack" docker pull -q "$name"
  after=$(used)
  [ "$round" -gt 1 ] || echo "disk: $((after - before)) bytes for a tree of $(du -s --block-size=1 "$work/tree" | cut -f1): $(awk -v a=$((after - before)) -v b="$(du -s --block-size=1 "$work/tree" | cut -f1)" 'BEGIN {printf "%.3f", a / b}') x"
  measure "pull, nothing to do (docker)" docker pull -q "$name"
  echo "pull, nothing to do (API)          $(for _ in 1 2 3 4 5; do curl -s -o /dev/null -w '%{time_total} ' --unix-socket "$sock" -X POST "http://d/v1.44/images/create?fromImage=127.0.0.1:5000/bench/big&tag=latest"; done)s"
  echo "system df (API)                    $(for _ in 1 2 3; do curl -s -o /dev/null -w '%{time_total} ' --unix-socket "$sock" http://d/v1.44/system/df; done)s"
  measure "save" docker save -o "$work/saved.tar" "$name"
  gone; rm -f "$work/saved.tar"
  measure "load" docker load -q -i "$image"
  docker tag bench/big:latest "$target"
  rm -rf "$work/registry5001/docker"
  measure "push, first" docker push -q "$target"
  measure "push, nothing to do" docker push -q "$target"
  docker image rm "$target" >/dev/null
  rm -rf "$work/tree"
done
