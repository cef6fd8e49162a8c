#!/usr/bin/env bash
# All figures of README.md in one run: builds what it needs, starts a daemon of its own in a network namespace of its own,
# measures it side by side with `floor` (the bare kernel's cost of the same work), stops and removes everything.
# Usage: tests/bench/run.sh [a b c …]     sections; without any, all. Needs root, cc, busybox-static; g also what images.sh says.
set -eu
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
[ -n "${WHARF_BIN_DIR:-}" ] || { cargo xtask build --profile release; WHARF_BIN_DIR=$target/release; }
work=$(mktemp -d "${BENCH_DIR:-/var/tmp}/wharf-bench-XXXXXX")
sock=$work/wharf.sock
cc -O2 -w -o "$work/floor" tests/bench/floor.c
rustc -O -A warnings -o "$work/loadgen" tests/bench/loadgen.rs
mkdir -p "$work"/bb/{bin,etc,tmp,root,proc,sys,dev,usr,var}
cp "$(command -v busybox)" "$work/bb/bin/busybox"
for a in $("$work/bb/bin/busybox" --list); do [ "$a" = busybox ] || ln -sf busybox "$work/bb/bin/$a"; done
echo 'root:x:0:0:root:/root:/bin/sh' > "$work/bb/etc/passwd"; echo 'root:x:0:' > "$work/bb/etc/group"
cc -O2 -w -static -o "$work/bb/logspew" tests/bench/logspew.c
tar -C "$work/bb" -cf "$work/busybox.tar" .

mkdir -p "$work/data"; [ -d "$WHARF_BIN_DIR/plugins-compiled" ] && cp -a "$WHARF_BIN_DIR/plugins-compiled" "$work/data/compiled"
daemon_args=(--host "unix://$sock" --host tcp://0.0.0.0:2399 --allow-insecure-tcp --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid")
unshare --net sh -c 'ip link set lo up; exec "$@"' sh "$WHARF_BIN_DIR/wharf" daemon "${daemon_args[@]}" > "$work/log" 2>&1 &
daemon=$!
stop() {
  DOCKER_HOST=unix://$sock docker ps -aq 2>/dev/null | xargs -r env DOCKER_HOST="unix://$sock" docker rm -f >/dev/null 2>&1 || true
  kill $daemon 2>/dev/null || true; wait $daemon 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT
api() { curl -sS --unix-socket "$sock" "$@"; }
for _ in $(seq 500); do [ -S "$sock" ] && api http://d/_ping >/dev/null 2>&1 && break; sleep 0.05; done
DOCKER_HOST=unix://$sock docker import "$work/busybox.tar" busybox >/dev/null

load() { "$work/loadgen" --sock "$sock" --procs wharf "$@"; }
floor() { "$work/floor" -l "$work/bb" -w "$work/floor.d" "$@"; }
want() { [ ${#sections[@]} -eq 0 ] || [[ " ${sections[*]} " == *" $1 "* ]]; }
sections=("$@")
floor -n 50 >/dev/null; load cycle --n 30 >/dev/null   # warm-up

if want a; then echo "== a. one container after another (create, start, wait, delete)"
  for _ in 1 2 3; do floor -n 200; load cycle --n 100 --net none; floor -n 100 -N veth; load cycle --n 100 --net bridge; done
fi
if want i; then echo "== i. after 250 ms idle"
  for _ in 1 2; do floor -n 20 -s 250; load cycle --n 20 --net none --pause 250; done
fi
if want b; then echo "== b. 8 clients"
  for _ in 1 2 3; do floor -n 320 -j 8; load cycle --n 320 --c 8 --net none; floor -n 320 -j 8 -N veth; load cycle --n 320 --c 8 --net bridge; done
fi
if want c; then echo "== c. exec"; load exec --n 100; load exec --n 100; fi
if want e; then echo "== e. a container that writes as fast as it can (100-byte lines)"
  for _ in 1 2; do for log in json-file local none; do load logs --mb 1024 --log $log; done; load attach --mb 1024 --log json-file; done
fi
if want x; then echo "== x. ten thousand execs"; load execs --n 10000; fi
if want h; then echo "== h. a thousand followers of logs and a thousand of events that die: closed, reset, half open"
  ns() { nsenter --net="/proc/$daemon/ns/net" "$@"; }
  for _ in 1 2 3; do load followers --n 1000; done
  ns "$work/loadgen" --sock "$sock" --procs wharf followers --n 1000 --tcp 127.0.0.1:2399
  unshare --net sleep 100000 & far=$!; sleep 0.5
  ns ip link add bench0 type veth peer name bench1 netns $far; ns ip addr add 10.213.0.1/24 dev bench0; ns ip link set bench0 up
  nsenter --net="/proc/$far/ns/net" sh -c 'ip link set bench1 up; ip addr add 10.213.0.2/24 dev bench1'
  nsenter --net="/proc/$far/ns/net" "$work/loadgen" --sock "$sock" --procs wharf followers --n 1000 --tcp 10.213.0.1:2399 --hold & held=$!
  sleep 8; ns ip link del bench0; kill -9 $held $far; echo "cut off"
  for _ in 1 2 3 4 5 6; do sleep 20; load usage; done
fi
if want t; then echo "== t. statistics of 200 containers"; load stats --n 200; fi
if want d; then echo "== d. density"; load density --net none --steps 100,300,1000; fi
if want f; then echo "== f. requests"
  ids=(); for _ in $(seq 100); do ids+=("$(DOCKER_HOST=unix://$sock docker run -d --network none busybox sleep 3600)"); done
  for path in /_ping /version /info /containers/json; do load get "$path" --c 1 --d 3; load get "$path" --c 8 --d 3; done
  printf '%s\n' "${ids[@]}" | xargs env DOCKER_HOST="unix://$sock" docker rm -f >/dev/null
fi
if want g; then echo "== g. images"; tests/bench/images.sh "$sock" $daemon "$work/data" "$work/images" 3; fi
if want s; then echo "== s. start of the daemon to its first answer (with 10 images)"
  for n in $(seq 9); do DOCKER_HOST=unix://$sock docker tag busybox "i$n"; (cd "$work/bb" && echo "$n" > etc/n && tar -cf - etc/n) | DOCKER_HOST=unix://$sock docker import - "other$n" >/dev/null; done
  for _ in 1 2 3 4 5; do
    kill $daemon; wait $daemon || true
    t0=$(date +%s%N)
    unshare --net sh -c 'ip link set lo up; exec "$@"' sh "$WHARF_BIN_DIR/wharf" daemon "${daemon_args[@]}" >> "$work/log" 2>&1 &
    daemon=$!
    until api http://d/_ping >/dev/null 2>&1; do :; done
    echo "start to first /_ping: $(( ($(date +%s%N) - t0) / 1000 )) us"
  done
fi
