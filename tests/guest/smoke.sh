# The engine on a kernel that has nothing but cgroup v2.

start_daemon
docker load -q -i /images/one.tar >/dev/null || bad load "$(tail -5 /run/daemon.log)"
image=one:1
same version "2 cgroupfs" "$(docker info -f '{{.CgroupVersion}} {{.CgroupDriver}}' 2>&1)"
limits='cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.swap.max /sys/fs/cgroup/cpu.weight'
same limits "67108864 50 50000 100000 67108864 100" \
    "$(docker run --rm -m 64m --memory-swap 128m --pids-limit 50 --cpus 0.5 $image sh -c "$limits" 2>&1 | tr '\n' ' ' | sed 's/ $//')"
same namespace "0::/" "$(docker run --rm $image cat /proc/self/cgroup 2>&1)"
same read-only "1" "$(docker run --rm $image sh -c 'echo 1 >/sys/fs/cgroup/pids.max; echo $?' 2>/dev/null)"
docker run --name oom -m 16m --memory-swap 16m $image sh -c 'head -c 64m /dev/zero | tail' >/dev/null 2>&1
same oom "137 true" "$(docker inspect -f '{{.State.ExitCode}} {{.State.OOMKilled}}' oom 2>&1)"
has pids "fork" "$(docker run --rm --pids-limit 5 $image sh -c 'for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; wait' 2>&1)"
docker run -d --name box -m 64m --memory-swap 64m --cpuset-cpus 0 $image sleep 1000 >/dev/null || bad run "$(docker logs box 2>&1)"
inside() {
    docker exec box cat "/sys/fs/cgroup/$1" 2>&1
}
same cpuset "0" "$(inside cpuset.cpus)"
docker update -m 96m --memory-swap 96m --cpus 0.7 --pids-limit 77 --cpu-shares 512 box >/dev/null 2>/run/out || bad update "$(cat /run/out)"
same updated "100663296 77 70000 100000" "$(inside memory.max) $(inside pids.max) $(inside cpu.max)"
has stats "96MiB" "$(docker stats --no-stream --format '{{.MemUsage}} {{.CPUPerc}} {{.PIDs}}' box 2>&1)"
docker pause box >/dev/null 2>&1
same paused "paused" "$(docker inspect -f '{{.State.Status}}' box)"
docker unpause box >/dev/null 2>&1
same unpaused "running" "$(docker inspect -f '{{.State.Status}}' box)"
same exec "7" "$(docker exec box sh -c 'exit 7'; echo $?)"
has top "sleep 1000" "$(docker top box 2>&1)"
same devices "1" "$(docker run --rm $image sh -c 'mknod /tmp/d b 254 16 && head -c 1 /tmp/d >/dev/null 2>&1; echo $?' 2>&1)"
same null "0" "$(docker run --rm $image sh -c 'echo x >/dev/null; echo $?' 2>&1)"
same device "0" "$(docker run --rm --device /dev/vdb:/dev/x:r $image sh -c 'head -c 512 /dev/x >/dev/null; echo $?' 2>&1)"
has io "wbps=1048576" "$(docker run --rm --device-write-bps /dev/vdb:1mb $image cat /sys/fs/cgroup/io.max 2>&1)"
docker network create n >/dev/null 2>/run/out || bad network "$(cat /run/out)"
docker run -d --name web --network n -p 127.0.0.1:8080:80 $image \
    sh -c 'while :; do printf "HTTP/1.0 200 OK\r\n\r\nhello" | nc -l -p 80; done' >/dev/null 2>/run/out || bad web "$(cat /run/out)"
web=$(docker inspect -f '{{.NetworkSettings.Networks.n.IPAddress}}' web)
same network "hello" "$(docker run --rm --network n $image nc -w 10 "$web" 80 2>&1 | tail -1)"
sleep 1
same published "hello" "$(nc -w 10 127.0.0.1 8080 </dev/null 2>&1 | tail -1)"
kill -9 $daemon
wait $daemon 2>/dev/null
start_daemon
same "after a crash" "running running" "$(docker inspect -f '{{.State.Status}}' box web 2>&1 | tr '\n' ' ' | sed 's/ $//')"
same "exec after a crash" "77" "$(inside pids.max)"
case "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" in
Y)
    # Nothing here could load the default profile.
    has "apparmor warning" "there is no apparmor_parser" "$(docker info 2>&1)"
    same "apparmor unconfined" "unconfined" "$(docker run --rm $image cat /proc/self/attr/current 2>&1)"
    has "apparmor unknown" "nosuch" "$(docker run --rm --security-opt apparmor=nosuch $image true 2>&1)"
    ;;
*) say "skipped apparmor" ;;
esac
docker run -d --name again --restart always $image sh -c 'sleep 0.2; exit 3' >/dev/null 2>&1
sleep 3
n=$(docker inspect -f '{{.RestartCount}}' again 2>&1)
if [ "$n" -ge 1 ] 2>/dev/null; then ok restarts; else bad restarts "$n"; fi
for one in oom box web again; do docker rm -f $one >/dev/null 2>/run/out || bad "rm $one" "$(cat /run/out)"; done
sleep 1
same cgroups "" "$(find /sys/fs/cgroup -type d -name '*[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]*' | head -3)"
grep -E 'ERROR|panicked' /run/daemon.log | head -10 | while read -r line; do say "log $line"; done
