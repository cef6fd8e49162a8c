#!/bin/sh
# First process of the guest's system. What it shall do is a word of the kernel's command line; what it found goes to the
# serial console in lines that start with @@.
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security 2>/dev/null
exec </dev/null >/dev/console 2>&1
export WHARF_HOST=unix:///run/wharf.sock DOCKER_HOST=unix:///run/wharf.sock DOCKER_CONFIG=/tmp/docker HOME=/tmp

say() {
    echo "@@ $*"
}

ok() {
    say "ok $1"
}

bad() {
    say "bad $1: $(echo "$2" | tr '\n' ' ' | cut -c1-400)"
}

# What, expected, found.
same() {
    if [ "$2" = "$3" ]; then ok "$1"; else bad "$1" "expected $2, found $3"; fi
}

has() {
    case "$3" in *"$2"*) ok "$1" ;; *) bad "$1" "no $2 in $3" ;; esac
}

word() {
    for one in $(cat /proc/cmdline); do
        case "$one" in "$1="*) echo "${one#*=}" ;; esac
    done
}

# Ends the guest: the host waits for this line, and then for the end of the machine.
finish() {
    say "end"
    sync
    poweroff -f
    sleep 1000
}

start_daemon() {
    if [ ! -d "$root/compiled" ]; then
        mkdir -p "$root"
        chmod 710 "$root"
        if [ -d /compiled ]; then
            cp -a /compiled "$root/compiled"
            chmod 700 "$root/compiled"
        fi
        sync
    fi
    # An emulated machine on a busy host is so slow that plugins do not answer in time: that is not what is tested.
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        wharf daemon --host unix:///run/wharf.sock --data-root "$root" --exec-root /run/wharf --pidfile /run/wharf.pid \
            --config-file /run/daemon.json >/run/daemon.log 2>&1 &
        daemon=$!
        n=0
        while [ "$n" -lt 600 ] && [ -d "/proc/$daemon" ]; do
            n=$((n + 1))
            if wharf version >/dev/null 2>&1; then
                say "daemon answers"
                return
            fi
            sleep 0.1
        done
        grep -q "did not answer within" /run/daemon.log || break
        say "attempt $attempt"
    done
    cat /run/daemon.log
    if grep -q "did not answer within" /run/daemon.log; then
        say "slow"
    else
        say "bad daemon"
    fi
    finish
}

# As the init of a usual system does at boot.
modprobe overlay || say "bad module overlay"
ip link set lo up
if ! mount -t ext4 /dev/vdb /data; then
    say "bad data disk"
    finish
fi
echo '{}' >/run/daemon.json
# Where the daemon's data is: a directory of the data disk, or all of it.
root=$(word at)
root=${root:-/data/wharf}
. "/$(word task).sh"
finish
