# Storage on an older kernel: EROFS images as loop devices, and directories that may not grow, on ext4 and xfs.

ok() {
    say "ok $1"
}

bad() {
    say "bad $1: $(echo "$2" | tr '\n' ' ' | cut -c1-600)"
}

# What, expected, found.
same() {
    if [ "$2" = "$3" ]; then ok "$1"; else bad "$1" "expected $2, found $3"; fi
}

has() {
    case "$3" in *"$2"*) ok "$1" ;; *) bad "$1" "no $2 in $3" ;; esac
}

# Waits until a command prints this.
becomes() {
    n=0
    while found=$($3 2>&1) && [ "$found" != "$2" ] && [ "$n" -lt 100 ]; do
        n=$((n + 1))
        sleep 0.1
    done
    same "$1" "$2" "$found"
}

# Device, type, options, storage driver: a daemon whose data is there.
begin() {
    umount /data 2>/dev/null
    mount -t "$2" -o "$3" "$1" /data || bad "mount of $1" "$(dmesg | tail -3)"
    echo "{\"storage-driver\": \"$4\"}" >/run/daemon.json
    what="$4 on $2 ($3)"
    start_daemon
    same "driver: $what" "$4" "$(docker info -f '{{.Driver}}' 2>&1)"
    docker load -q -i /images/one.tar >/dev/null 2>/run/out || bad "load: $what" "$(cat /run/out)"
}

end() {
    for one in $(docker ps -aq); do docker rm -f "$one" >/dev/null 2>/run/out || bad "rm: $what" "$(cat /run/out)"; done
    docker volume prune -af >/dev/null 2>&1
    docker rmi -f one:1 made:1 >/dev/null 2>&1
    grep -E 'ERROR|panicked' /run/daemon.log | head -10 | while read -r line; do say "log $what: $line"; done
    kill $daemon
    wait $daemon 2>/dev/null
    n=0
    while ! umount /data 2>/dev/null && [ "$n" -lt 100 ]; do
        n=$((n + 1))
        sleep 0.1
    done
    grep -q " /data " /proc/mounts && bad "unmount: $what" "$(cat /proc/mounts)"
    rm -rf /run/wharf
}

devices() {
    ls -d /sys/block/loop*/loop 2>/dev/null | wc -l | tr -d ' '
}

# Usual systems have its node from the start, and load it when it is opened.
modprobe loop || say "bad module loop"
image=one:1
begin /dev/vdb ext4 defaults erofs
same files 0 "$(docker run --rm --network none $image sh -c 'cd / && sha256sum -s -c sums; echo $?' 2>&1)"
becomes "no device without a use, or few" "2" devices
for n in 1 2 3 4; do
    docker run -d --name "c$n" --network none $image sh -c "echo $n >/mine; sleep 1000" >/dev/null 2>/run/out || bad "run $n" "$(cat /run/out)"
done
same "a device for each layer" 2 "$(devices)"
same "which shows, and frees itself" "1 1" "$(cat /sys/block/loop0/ro) $(cat /sys/block/loop0/loop/autoclear)"
same "changes are a container's own" "1 2 3 4" "$(for n in 1 2 3 4; do docker exec c$n cat /mine; done 2>&1 | tr '\n' ' ' | sed 's/ $//')"
same diff "A /mine" "$(docker diff c1 2>&1)"
docker commit c1 made:1 >/dev/null 2>/run/out || bad commit "$(cat /run/out)"
same committed "1" "$(docker run --rm --network none made:1 cat /mine 2>&1)"
same "removed from a layer below" "gone" "$(docker run --rm --network none made:1 sh -c 'rm -r /own && ls /own 2>/dev/null || echo gone' 2>&1)"
docker rmi made:1 >/dev/null 2>&1
kill -9 $daemon
wait $daemon 2>/dev/null
same "a killed daemon leaves what is in use" 2 "$(devices)"
start_daemon
docker run -d --name c5 --network none $image sleep 1000 >/dev/null 2>/run/out || bad "run 5" "$(cat /run/out)"
same "and the next one finds it" 2 "$(devices)"
same "containers ran on" 4 "$(docker exec c4 cat /mine 2>&1)"
docker rm -f c1 c2 c3 c4 c5 >/dev/null 2>&1
kill -9 $daemon
wait $daemon 2>/dev/null
becomes "killed, it leaves no device" 0 devices
start_daemon
docker run --rm --network none $image true || bad "run after all" "$(tail -3 /run/daemon.log)"
docker rmi -f one:1 >/dev/null 2>&1
becomes "none of images that are gone" 0 devices
end

# Projects that have a limit or files.
projects() {
    xfs_quota -x -f -c 'report -pnN -b' /data 2>&1 | awk '$1 != "#0" && ($2 > 0 || $4 > 0)' | wc -l | tr -d ' '
}

# Writes so many MiB to a file in a container, and says whether it could.
fill() {
    found=$(docker exec "$1" dd if=/dev/zero "of=$2" bs=1M "count=$3" 2>&1) && echo written || echo "$found"
}

refused() {
    case "$2" in
    *"quota exceeded"* | *"No space left"*) ok "$1" ;;
    *) bad "$1" "$2" ;;
    esac
}

# Device, type, options, driver.
limits() {
    begin "$@"
    same "none yet: $what" 0 "$(projects)"
    docker run -d --name limited --network none --storage-opt size=24m $image sleep 1000 >/dev/null 2>/run/out || bad "run: $what" "$(cat /run/out)"
    docker run -d --name free --network none $image sleep 1000 >/dev/null 2>/run/out || bad "run: $what" "$(cat /run/out)"
    same "inspect: $what" "24m" "$(docker inspect -f '{{index .HostConfig.StorageOpt "size"}}' limited 2>&1)"
    same "df: $what" "24576" "$(docker exec limited df -k / 2>&1 | awk 'END { print $2 }')"
    same "beneath: $what" written "$(fill limited /a 16)"
    refused "over: $what" "$(fill limited /b 16)"
    docker exec limited sh -c 'cat /bin/busybox >>/a' 2>/run/out && bad "append over: $what" "it was written"
    same "another: $what" written "$(fill free /a 40)"
    docker exec limited rm -f /a /b
    same "after removal: $what" written "$(fill limited /a 16)"
    docker volume create -o size=8m small >/dev/null 2>/run/out || bad "volume: $what" "$(cat /run/out)"
    docker run -d --name user --network none -v small:/v $image sleep 1000 >/dev/null 2>/run/out || bad "run: $what" "$(cat /run/out)"
    same "a volume beneath: $what" written "$(fill user /v/a 6)"
    refused "a volume over: $what" "$(fill user /v/b 6)"
    same "projects: $what" 2 "$(projects)"
    kill -9 $daemon
    wait $daemon 2>/dev/null
    start_daemon
    refused "after a crash: $what" "$(fill limited /b 16)"
    docker restart -t 0 limited >/dev/null 2>&1
    refused "after a restart: $what" "$(fill limited /b 16)"
    # Full, it starts all the same, and can be emptied.
    docker exec limited rm -f /a /b || bad "emptied: $what" "$(docker exec limited mount)"
    same "emptied: $what" written "$(fill limited /a 16)"
    for n in 1 2 3 4 5 6; do
        docker create --name "more$n" --storage-opt size=1m $image true >/dev/null 2>/run/out || bad "create: $what" "$(cat /run/out)"
    done
    docker rm -f limited free user more1 more2 more3 more4 more5 more6 >/dev/null 2>/run/out || bad "rm: $what" "$(cat /run/out)"
    docker volume rm small >/dev/null 2>/run/out || bad "volume rm: $what" "$(cat /run/out)"
    becomes "projects come back: $what" 0 projects
    [ "$(projects)" = 0 ] || bad "projects of $what" "$(xfs_quota -x -f -c 'report -pnN -b' /data 2>&1)"
    end
}

modprobe xfs || say "bad module xfs"
limits /dev/vdc xfs pquota overlay2
limits /dev/vdd ext4 prjquota overlay2
limits /dev/vdd ext4 prjquota erofs
# Where limits are counted and not kept, none is promised.
for options in "/dev/vdd ext4 defaults" "/dev/vdc xfs defaults" "/dev/vdc xfs pqnoenforce"; do
    begin $options overlay2
    has "refused: $what" "--storage-opt is supported only for" "$(docker create --storage-opt size=24m $image true 2>&1)"
    end
done
