#!/bin/busybox sh
# First process of the initial memory file system: finds the system disk and goes on there.
/bin/busybox mkdir -p /proc /sys /dev /new
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod "/modules/$module" || /bin/busybox echo "@@ bad module $module" >/dev/console
done
/bin/busybox mount -t ext4 -o ro /dev/vda /new || /bin/busybox echo "@@ bad system disk" >/dev/console
exec /bin/busybox switch_root /new /init
