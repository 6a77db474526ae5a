#!/bin/sh
# confined.sh EMPTY_FOLDER KEPT… -- COMMAND…
# Runs a command as compose.yaml has it: the root file system read-only, /tmp an empty tmpfs but for the kept
# folders (read-only, unless `:rw` stands behind), no capabilities. Mounts are this process's own: start it under
# `unshare --mount`.
set -eu
tmpfs=$1
shift
mount -t tmpfs tmpfs "$tmpfs"
while [ "$1" != "--" ]; do
    kept=${1%:rw}
    case $kept in
    /tmp/*)
        place=$tmpfs/${kept#/tmp/}
        mkdir -p "$place"
        ;;
    *) place=$kept ;;
    esac
    mount --bind "$kept" "$place"
    [ "$kept" != "$1" ] || mount -o remount,ro,bind "$place"
    shift
done
shift
mount --rbind "$tmpfs" /tmp
mount -o remount,ro,bind /
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
