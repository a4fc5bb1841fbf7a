#!/bin/sh
# Print where the tests may keep their databases: in memory where there is room, since they commit
# thousands of times and mean to test what is written, not the disk. A killed process or server
# finds its files there as on a disk; only a power cut would not.
set -eu

memory=/dev/shm
least_kilobytes=2097152
if [ -d "$memory" ] && [ -w "$memory" ] &&
    [ "$(df -Pk "$memory" | awk 'NR == 2 { print $4 }')" -ge "$least_kilobytes" ]; then
    echo "$memory"
else
    echo "${TMPDIR:-/tmp}"
fi
