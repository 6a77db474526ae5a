#!/bin/sh
# confined.sh EMPTY_FOLDER KEPT… -- COMMAND…
# Runs a command as compose.yaml has it: the root file system read-only, /tmp an empty tmpfs but for the kept
# folders (read-only), no capabilities. Mounts are this process's own: start it under `unshare --mount`.
set -eu
tmpfs=$1
shift
mount -t tmpfs tmpfs "$tmpfs"
while [ "$1" != "--" ]; do
    case $1 in
    /tmp/*)
        mkdir -p "$tmpfs/${1#/tmp/}"
        mount --bind "$1" "$tmpfs/${1#/tmp/}"
        mount -o remount,ro,bind "$tmpfs/${1#/tmp/}"
        ;;
    esac
    shift
done
shift
mount --rbind "$tmpfs" /tmp
mount -o remount,ro,bind /
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
