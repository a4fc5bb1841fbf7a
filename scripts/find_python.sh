#!/bin/sh
# Print the path of a Python that can make the virtual environment, or say what is missing.
# PYTHON names one explicitly; otherwise the first suitable one on the PATH is taken.
set -eu

suits='import sys; sys.exit(sys.version_info < (3, 11))'
# Debian ships Python without these two unless python3-venv is installed.
can_make_venv='import ensurepip, venv'

without_venv=''
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
    # Running it is the only honest check: version switchers put dead names on the PATH.
    "$candidate" -c "$suits" >/dev/null 2>&1 || continue
    if "$candidate" -c "$can_make_venv" >/dev/null 2>&1; then
        "$candidate" -c 'import sys; print(sys.executable)'
        exit 0
    fi
    without_venv="$candidate"
done

if [ -n "$without_venv" ]; then
    echo "$without_venv is new enough but has no venv module; on Debian and Ubuntu:" \
        "apt-get install python3-venv" >&2
else
    echo "Python 3.11 or newer is needed, but ${PYTHON:-no python3 on the PATH} is not;" \
        "install it, or name one with: make PYTHON=/path/to/python3" >&2
fi
exit 1
