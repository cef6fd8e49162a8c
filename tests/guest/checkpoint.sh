# Checkpoints where there is nothing but cgroup v2, and where containers are confined by AppArmor.

echo '{"experimental": true}' >/run/daemon.json
start_daemon
docker load -q -i /images/one.tar >/dev/null || bad load "$(tail -5 /run/daemon.log)"
image=one:1
same version "2" "$(docker info -f '{{.CgroupVersion}}' 2>&1)"
current='cat /proc/1/attr/current'
case "$(docker info -f '{{.SecurityOptions}}' 2>&1)" in *apparmor*) default="docker-default (enforce)" ;; *) default="unconfined" ;; esac
say "apparmor $default"
counter='trap "exit 7" TERM; i=0; while :; do i=$((i+1)); echo $i >/data/n; echo count $i; sleep 0.2; done'

status() {
    docker inspect -f '{{.State.Status}}' "$1" 2>&1
}

# Waits for a container's status.
is() {
    n=0
    while [ "$(status "$1")" != "$2" ] && [ "$n" -lt 100 ]; do
        n=$((n + 1))
        sleep 0.2
    done
    same "$1 is $2" "$2" "$(status "$1")"
}

# The number at which a container is, once it is more than this.
more() {
    n=0
    number=$(docker exec "$1" cat /data/n 2>/dev/null)
    while ! [ "${number:-0}" -gt "$2" ] 2>/dev/null && [ "$n" -lt 150 ]; do
        n=$((n + 1))
        sleep 0.2
        number=$(docker exec "$1" cat /data/n 2>/dev/null)
    done
    if [ "${number:-0}" -gt "$2" ] 2>/dev/null; then ok "$1 counts on from $2"; else
        number=0
        bad "$1 counts on from $2" "$number; $(docker logs "$1" 2>&1 | tail -3); $(docker exec "$1" cat /data/n 2>&1)"
    fi
}

# Container, checkpoint, options of the checkpoint.
make() {
    if docker checkpoint create $3 "$1" "$2" >/run/out 2>&1; then ok "checkpoint $2 of $1"; else
        bad "checkpoint $2 of $1" "$(cat /run/out)"
        grep -h -E 'Error|Warn' /data/wharf/containers/*/checkpoints/*/criu.work/*.log 2>/dev/null | tail -5
    fi
}

again() {
    if docker start --checkpoint "$2" "$1" >/run/out 2>&1; then ok "restore $2 of $1"; else bad "restore $2 of $1" "$(cat /run/out)"; fi
}

limits='cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max /proc/self/cgroup'
limited="67108864 50 50000 100000 0::/"
docker run -d --name box -m 64m --memory-swap 64m --pids-limit 50 --cpus 0.5 -v vol:/data --tmpfs /t $image sh -c "$counter" >/dev/null 2>/run/out || bad run "$(cat /run/out)"
more box 3
docker exec box sh -c 'echo kept >/t/x'
same "limits before" "$limited" "$(docker exec box sh -c "$limits" 2>&1 | tr '\n' ' ' | sed 's/ $//')"
same "profile before" "$default" "$(docker exec box $current 2>&1)"
make box first --leave-running
same "left running" "running" "$(status box)"
more box "$number"
at=$number
make box second
is box exited
again box second
more box "$at"
same "tmpfs" "kept" "$(docker exec box cat /t/x 2>&1)"
same "limits after" "$limited" "$(docker exec box sh -c "$limits" 2>&1 | tr '\n' ' ' | sed 's/ $//')"
same "profile after" "$default" "$(docker exec box $current 2>&1)"
same "profile of an exec" "$default" "$(docker exec box cat /proc/self/attr/current 2>&1)"
same "devices after" "1" "$(docker exec box sh -c 'mknod /t/d b 254 16 && head -c 1 /t/d >/dev/null 2>&1; echo $?' 2>&1)"
same "first process is in its cgroup" "0::/" "$(docker exec box cat /proc/1/cgroup 2>&1)"
same "cgroups read-only" "1" "$(docker exec box sh -c 'echo 1 >/sys/fs/cgroup/pids.max; echo $?' 2>/dev/null)"
docker update --pids-limit 60 box >/dev/null 2>&1
same "updated after" "60" "$(docker exec box cat /sys/fs/cgroup/pids.max 2>&1)"
docker pause box >/dev/null 2>&1
same paused "paused" "$(status box)"
docker unpause box >/dev/null 2>&1
kill -9 $daemon
wait $daemon 2>/dev/null
start_daemon
more box "$at"
docker stop -t 30 box >/dev/null 2>&1
same "its own end" "7" "$(docker inspect -f '{{.State.ExitCode}}' box)"
again box first
more box 3
has stats "64MiB" "$(docker stats --no-stream --format '{{.MemUsage}}' box 2>&1)"
docker rm -f box >/dev/null 2>&1

# What does not go through the usual steps: each is saved with its end and goes on.
kind() {
    name=$1
    shift
    docker run -d --name "$name" -v "$name-data:/data" "$@" $image sh -c "$counter" >/dev/null 2>/run/out || bad "run $name" "$(cat /run/out)"
    more "$name" 3
    at=$number
    profile=$(docker exec "$name" $current 2>&1)
    make "$name" cp
    is "$name" exited
    again "$name" cp
    more "$name" "$at"
    same "$name: profile" "$profile" "$(docker exec "$name" $current 2>&1)"
}
kind none --network none
docker rm -f none >/dev/null 2>&1
kind host --network host --cgroupns host
docker rm -f host >/dev/null 2>&1
kind init --network none --init
docker stop -t 30 init >/dev/null 2>&1
same "end behind init" "7" "$(docker inspect -f '{{.State.ExitCode}}' init)"
docker rm -f init >/dev/null 2>&1
kind open --network none --privileged
docker rm -f open >/dev/null 2>&1
kind shared --network none --ipc shareable
docker exec shared sh -c 'echo seen >/dev/shm/x'
same "shared memory" "seen" "$(docker run --rm --network none --ipc container:shared $image cat /dev/shm/x 2>&1)"
docker rm -f shared >/dev/null 2>&1
if [ "$default" != unconfined ]; then
    kind free --network none --security-opt apparmor=unconfined
    docker rm -f free >/dev/null 2>&1
    echo 'profile mine flags=(attach_disconnected,mediate_deleted) { file, capability, network, signal, deny /etc/passwd r, }' | apparmor_parser -Kr
    kind named --network none --security-opt apparmor=mine
    same "named holds" "1" "$(docker exec named sh -c 'cat /etc/passwd >/dev/null 2>&1; echo $?')"
    make named gone
    is named exited
    echo 'profile mine { }' | apparmor_parser -R
    if docker start --checkpoint gone named >/run/out 2>&1; then bad "profile gone" "it was restored"; else has "profile gone" "mine" "$(cat /run/out)"; fi
    same "not started" "exited" "$(status named)"
    docker rm -f named >/dev/null 2>&1
fi

# Bundles of others, and a dump that has an earlier one as its parent.
mkdir -p /run/bundle/rootfs
docker create --name files $image true >/dev/null
docker export files | tar -x -C /run/bundle/rootfs
echo 'x=$(head -c 24000000 /dev/zero | tr "\0" x); i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done' >/run/bundle/rootfs/count.sh
(cd /run/bundle && wharf oci spec) || bad spec ""
sed -i -e 's/"terminal": *true/"terminal": false/' -e 's/"sh"/"sh","\/count.sh"/' /run/bundle/config.json

# Log, what it counts to.
counted() {
    n=0
    while ! [ "$(grep -c . "$1" 2>/dev/null)" -gt "$2" ] 2>/dev/null && [ "$n" -lt 150 ]; do
        n=$((n + 1))
        sleep 0.2
    done
    number=$(tail -1 "$1")
    if [ "$number" -ge 0 ] 2>/dev/null; then ok "$1 counts"; else bad "$1 counts" "$(tail -3 "$1")"; fi
}

pages() {
    cat "$1"/pages-*.img | wc -c
}
(wharf oci run -d -b /run/bundle one 2>&1 | cat >/run/one.log) &
counted /run/one.log 3
for args in "--leave-running --image-path /data/whole" "--pre-dump --image-path /data/first" "--parent-path ../first --image-path /data/second"; do
    # This system has no ip program that CRIU could save a network with.
    wharf oci checkpoint --empty-ns network $args one >/run/out 2>&1 && ok "oci checkpoint $args" || bad "oci checkpoint $args" "$(cat /run/out)"
done
counted /run/one.log 3
at=$number
if [ "$(pages /data/whole)" -gt 24000000 ] && [ $(($(pages /data/second) * 4)) -lt "$(pages /data/whole)" ]; then ok "incremental"; else
    bad "incremental" "whole $(pages /data/whole), first $(pages /data/first), second $(pages /data/second)"
fi
(wharf oci restore -d -b /run/bundle --empty-ns network --image-path /data/second one 2>&1 | cat >/run/two.log) &
counted /run/two.log 1
if [ "$(head -1 /run/two.log)" -ge "$at" ] 2>/dev/null; then ok "oci restore"; else bad "oci restore" "after $at: $(head -3 /run/two.log)"; fi
wharf oci delete --force one || bad "oci delete" ""
docker rm -f $(docker ps -aq) >/dev/null 2>&1
sleep 1
same cgroups "" "$(find /sys/fs/cgroup -type d -name '*[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]*' | head -3)"
same places "" "$(ls /run/wharf/restore 2>/dev/null)"
grep -E 'ERROR|panicked' /run/daemon.log | head -10 | while read -r line; do say "log $line"; done
