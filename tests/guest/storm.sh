# Checks what the last power cut left, then takes images in and removes them until the power is cut.

storage=$root/storage/wharf/storage-overlay

entries() {
    find "$1" -mindepth 1 -maxdepth 1 ! -name .trash 2>/dev/null | wc -l
}

mkdir -p /run/registry
cp -a /registry/. /run/registry/
wharf registry serve --root /run/registry --address 127.0.0.1:5000 >/run/registry.log 2>&1 &

start_daemon
wharf container prune -f >/dev/null || say "bad prune"
wharf image prune -f >/dev/null || say "bad prune"
listed=$(wharf images --format '{{.Repository}}:{{.Tag}}')
count=0
for name in $listed; do
    count=$((count + 1))
    say "listed $name"
    if wharf run --rm --network none "$name" sh -c 'cd / && sha256sum -s -c sums' >/run/out 2>&1; then
        say "runs $name"
    else
        say "bad image $name: $(tr '\n' ' ' </run/out)"
    fi
done
# Every image has a layer of its own on one that all share.
layers=$count
[ "$count" = 0 ] || layers=$((count + 1))
for place in "$storage" $root/content/recipes; do
    there=$(entries "$place")
    [ "$there" = "$layers" ] || say "bad $place: $there entries instead of $layers: $(ls "$place" | tr '\n' ' ')"
done
[ "$(entries $root/content/ingest)" = 0 ] || say "bad ingest: $(ls $root/content/ingest | tr '\n' ' ')"
for name in $listed; do
    wharf rmi "$name" >/dev/null || say "bad removal of $name"
done
n=0
while [ "$(entries "$storage")$(entries $storage/.trash)$(entries $root/content/recipes)" != 000 ]; do
    n=$((n + 1))
    if [ "$n" -gt 100 ]; then
        say "bad rest: $(find "$storage" $root/content -mindepth 1 -maxdepth 2 | head -20 | tr '\n' ' ')"
        break
    fi
    sleep 0.1
done
grep -E 'ERROR|panicked' /run/daemon.log | head -5 | while read -r line; do say "log $line"; done
say "checked"

# One after the other: there, perhaps for a moment, gone.
turn() {
    while :; do
        for name in $2; do
            case "$1" in
            load) wharf load -q -i "/images/$name.tar" >/run/out-$1 2>&1 ;;
            pull) wharf pull -q "127.0.0.1:5000/$name:1" >/run/out-$1 2>&1 ;;
            esac
            if [ $? != 0 ]; then
                say "bad $1 of $name: $(tr '\n' ' ' </run/out-$1)"
                continue
            fi
            [ "$1" = load ] && full="$name:1" || full="127.0.0.1:5000/$name:1"
            say "have $full"
            [ "$(($(date +%s) % 3))" = 0 ] && continue
            say "going $full"
            wharf rmi "$full" >/run/out-$1 2>&1 && say "gone $full" || say "bad rmi of $full: $(tr '\n' ' ' </run/out-$1)"
        done
    done
}
# Images without a name, and containers, that only prune removes.
litter() {
    while :; do
        id=$(wharf import /images/one.tar 2>/run/out-litter | tail -1)
        [ -n "$id" ] || say "bad import: $(tr '\n' ' ' </run/out-litter)"
        wharf create --network none "$id" /x >/dev/null 2>/run/out-litter || say "bad create: $(tr '\n' ' ' </run/out-litter)"
        say "litter"
        wharf container prune -f >/dev/null 2>/run/out-litter || say "bad prune: $(tr '\n' ' ' </run/out-litter)"
        wharf image prune -f >/dev/null 2>/run/out-litter || say "bad prune: $(tr '\n' ' ' </run/out-litter)"
    done
}
[ -n "$(word litter)" ] && litter &
turn load "one two three" &
turn pull "four five six" &
wait
