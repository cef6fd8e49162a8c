# AppArmor: who is confined, by what, and that it holds. Every attack is tried without the profile as well, where it must succeed.

echo '{"runtimes":{"runc-own":{"path":"/sbin/runc"},"wharf-oci":{"path":"/bin/wharf","runtimeArgs":["oci"]}}}' >/run/daemon.json
start_daemon
docker load -q -i /images/one.tar >/dev/null || bad load "$(tail -5 /run/daemon.log)"
image=one:1
has info "name=apparmor" "$(docker info -f '{{.SecurityOptions}}' 2>&1)"
current='cat /proc/self/attr/current'
free="--security-opt apparmor=unconfined"
default="docker-default (enforce)"

same default "$default" "$(docker run --rm $image $current 2>&1)"
same unconfined "unconfined" "$(docker run --rm $free $image $current 2>&1)"
same privileged "unconfined" "$(docker run --rm --privileged $image $current 2>&1)"
same init "$default" "$(docker run --rm --init $image $current 2>&1)"
same user "$default" "$(docker run --rm -u 1000 --security-opt no-new-privileges $image $current 2>&1)"
same "user namespace" "$default" "$(wharf run --rm --userns auto $image $current 2>&1)"
docker run --rm --security-opt apparmor=nosuch $image true >/run/out 2>&1
same "unknown ends with" "127" "$?"
has unknown "unable to apply apparmor profile: apparmor failed to apply profile: write /proc/thread-self/attr/apparmor/exec: no such file or directory" "$(cat /run/out)"
has "unknown by name" '"nosuch" is not loaded' "$(cat /run/out)"

docker run -d --name box $image sleep 1000 >/dev/null || bad run "$(docker logs box 2>&1)"
docker run -d --name free $free $image sleep 1000 >/dev/null || bad run "$(docker logs free 2>&1)"
same inspect "docker-default unconfined" "$(docker inspect -f '{{.AppArmorProfile}}' box free 2>&1 | tr '\n' ' ' | sed 's/ $//')"
same exec "$default" "$(docker exec box $current 2>&1)"
same "privileged exec" "$default" "$(docker exec --privileged box $current 2>&1)"
same "exec unconfined" "unconfined" "$(docker exec free $current 2>&1)"
same "top" "1" "$(docker top box | grep -c 'sleep 1000')"

# What, what the attack is to print only if it succeeds, options, script.
attack() {
    what=$1
    options=$2
    script="($3) >/dev/null 2>&1 && echo through"
    same "no $what" "" "$(docker run --rm $options $image sh -c "$script" 2>&1)"
    same "$what without" "through" "$(docker run --rm $options $free $image sh -c "$script" 2>&1)"
}
open="--cap-add SYS_ADMIN --security-opt systempaths=unconfined --security-opt seccomp=unconfined"
attack mount "$open" 'mkdir /m && mount -t tmpfs x /m'
attack bind "$open" 'mkdir /m && mount -o bind /proc /m'
attack remount "$open" 'mount -o remount,bind,rw /sys'
attack core_pattern "$open" 'echo core >/proc/sys/kernel/core_pattern'
attack modprobe "$open" 'cat /proc/sys/kernel/modprobe >/m; cat /m >/proc/sys/kernel/modprobe'
attack sysrq "$open" 'echo h >/proc/sysrq-trigger'
attack kcore "$open --cap-add SYS_RAWIO" 'head -c 16 /proc/kcore'
attack sys "-v /sys:/sys" 'echo 128 >/sys/block/vdb/queue/read_ahead_kb'
attack "module parameters" "-v /sys:/sys" 'echo 1 >/sys/module/printk/parameters/time'
attack profiles "-v /sys:/sys --cap-add MAC_ADMIN" 'cat /sys/kernel/security/apparmor/profiles'
same "reads" "0" "$(docker run --rm $open $image sh -c 'cat /proc/meminfo /proc/sys/kernel/core_pattern >/dev/null; echo $?' 2>&1)"
same "shm limits" "0" "$(docker run --rm $open $image sh -c 'echo 1000000 >/proc/sys/kernel/shmmax; echo $?' 2>&1)"
for word in current exec; do
    same "no change by $word" "$default" "$(docker run --rm --cap-add ALL --security-opt seccomp=unconfined $image sh -c \
        "echo changeprofile unconfined >/proc/self/attr/current; echo exec unconfined >/proc/self/attr/exec; cat /proc/self/attr/current" 2>/dev/null)"
done

# Processes of the host, seen from a container.
sleep 3000 &
victim=$!
attack environment "--pid host --cap-add SYS_PTRACE" "head -c 1 /proc/$victim/environ"
same "no signal" "" "$(docker run --rm --pid host $image sh -c "kill -9 $victim 2>/dev/null && echo through")"
[ -d /proc/$victim ] && ok "victim lives" || bad "victim lives" "it was killed"
docker run --rm --pid host $free $image kill -9 $victim
sleep 1
grep -q State:.Z /proc/$victim/status 2>/dev/null || [ ! -d /proc/$victim ] && ok "signal without" || bad "signal without" "it lives"
# Signals that the engine sends, and those among the container's own.
same "own signal" "143" "$(docker run --rm $image sh -c 'sleep 1000 & kill $!; wait $!; echo $?' 2>/dev/null)"
docker run -d --name trap $image sh -c 'trap "exit 5" TERM; while :; do sleep 0.1; done' >/dev/null
sleep 2
docker stop trap >/dev/null 2>&1
same stop "5" "$(docker inspect -f '{{.State.ExitCode}}' trap)"

# A profile of one's own.
echo 'profile mine flags=(attach_disconnected,mediate_deleted) { file, capability, network, deny /etc/passwd r, }' | apparmor_parser -Kr
same named "mine (enforce)" "$(docker run --rm --security-opt apparmor=mine $image $current 2>&1)"
same "named holds" "1" "$(docker run --rm --security-opt apparmor=mine $image sh -c 'cat /etc/passwd 2>/dev/null; echo $?')"
same "named and privileged" "mine (enforce)" "$(docker run --rm --privileged --security-opt apparmor=mine $image $current 2>&1)"
docker create --name mine --security-opt apparmor=mine $image true >/dev/null
same "named inspect" "mine" "$(docker inspect -f '{{.AppArmorProfile}}' mine 2>&1)"

# Containers that other runtimes make, and what is executed in them.
for runtime in runc-own wharf-oci; do
    of="--network none --runtime $runtime"
    same "$runtime" "$default" "$(docker run --rm $of $image $current 2>&1)"
    same "$runtime unconfined" "unconfined" "$(docker run --rm $of $free $image $current 2>&1)"
    same "$runtime privileged" "unconfined" "$(docker run --rm $of --privileged $image $current 2>&1)"
    same "$runtime named" "mine (enforce)" "$(docker run --rm $of --security-opt apparmor=mine $image $current 2>&1)"
    docker run --rm $of --security-opt apparmor=nosuch $image true >/run/out 2>&1 && bad "$runtime unknown" "$(cat /run/out)"
    docker run -d --name other $of $image sleep 1000 >/dev/null || bad "$runtime run" "$(docker logs other 2>&1)"
    same "$runtime exec" "$default" "$(docker exec other $current 2>&1)"
    same "$runtime holds" "" "$(docker run --rm $of $open $image sh -c 'mkdir /m && mount -t tmpfs x /m && echo through' 2>/dev/null)"
    docker rm -f other >/dev/null
done

# Other programs' bundles.
mkdir -p /run/bundle/rootfs
docker export mine | tar -x -C /run/bundle/rootfs
(cd /run/bundle && wharf oci spec) || bad spec ""
sed -i -e 's/"terminal": *true/"terminal": false/' -e 's/"sh"/"cat","\/proc\/self\/attr\/current"/' \
    -e 's/"process": *{/"process": {"apparmorProfile":"mine",/' /run/bundle/config.json
same oci "mine (enforce)" "$(wharf oci run -b /run/bundle confined </dev/null 2>&1)"

# Unloaded by something else: loaded again. Another of that name: kept.
docker rm -f box free mine trap >/dev/null 2>&1
echo 'profile docker-default { }' | apparmor_parser -R
same unloaded "" "$(grep docker-default /sys/kernel/security/apparmor/profiles)"
found=$(docker run --rm $image $current 2>&1)
case "$found" in
*"set aside for"*)
    # The translation of the profile took the emulated processor so long that plugins did not answer.
    sleep 70
    found=$(docker run --rm $image $current 2>&1)
    ;;
esac
same "loaded again" "$default" "$found"
echo 'profile docker-default flags=(attach_disconnected,mediate_deleted,complain) { file, }' | apparmor_parser -Kr
kill -9 $daemon
wait $daemon 2>/dev/null
start_daemon
same kept "docker-default (complain)" "$(docker run --rm $image $current 2>&1)"
grep -E 'ERROR|panicked' /run/daemon.log | head -10 | while read -r line; do say "log $line"; done
