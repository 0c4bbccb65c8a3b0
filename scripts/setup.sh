#!/usr/bin/env bash
# Prepare a Debian machine: setup.sh runtime | demo | test | fuzz
#
# `runtime` is what the command needs and leaves it at .venv/bin/ghostdump; `test` adds what the tests need,
# `fuzz` what fuzzing needs besides.
# One line is said for each thing that is installed, and nothing when there is nothing to do.
set -euo pipefail
cd "$(dirname "$0")/.."

# libc6-dev and ca-certificates are only recommended by gcc and pip: a minimal machine lacks them.
RUNTIME_PACKAGES=(ca-certificates comerr-dev e2fsprogs fuse3 gcc libc6-dev libext2fs-dev libfuse3-dev libseccomp2 make pkg-config)
PYTHON_PACKAGES=(python3 python3-dev python3-venv)
DEMO_PACKAGES=(file makedumpfile) # readers of the dump; the demo goes on without them
TEST_PACKAGES=(crash file fuse2fs gdb git makedumpfile mount procps python3-libkdumpfile strace util-linux)

log="$(mktemp)"
trap 'rm -f "$log"' EXIT

say() { echo "setup: $*"; }

fail() {
    say "$*" >&2
    exit 1
}

# Run a command unseen; show what it printed only when it fails.
quietly() {
    "$@" > "$log" 2>&1 < /dev/null && return
    cat "$log" >&2
    fail "failed: $*"
}

# --- Debian packages ------------------------------------------------------------------------------------------------

missing_packages() {
    local package
    for package in "$@"; do
        [[ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2> /dev/null)" == installed ]] ||
            echo "$package"
    done
}

# The words to put before a command that needs root: none for root, `sudo -n` where that asks for no password.
find_root() {
    as_root=()
    [[ "$(id --user)" == 0 ]] && return
    as_root=(sudo -n)
    "${as_root[@]}" true 2> /dev/null
}

ensure_packages() {
    command -v dpkg-query > /dev/null || fail "this is not Debian: install what matches these packages there: $*"
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [[ ${#missing[@]} == 0 ]] && return
    # Without the recommended ones: makedumpfile recommends kdump-tools, which changes how the machine boots.
    local install=(apt-get install --yes --no-install-recommends "${missing[@]}")
    find_root || fail "packages are missing. Ask root for: ${install[*]}"
    say "installing ${missing[*]}"
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive)
    # A third party's list that cannot be had is no reason to stop; the install is the judge.
    "${apt[@]}" apt-get update > "$log" 2>&1 < /dev/null || say "apt-get update failed: going on with the lists there are"
    quietly "${apt[@]}" "${install[@]}"
}

# --- Python ---------------------------------------------------------------------------------------------------------

usable_python() {
    "$1" - << 'PYTHON' > /dev/null 2>&1
import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(sys.version_info < (3, 11) or not os.path.exists(header))
PYTHON
}

# The first Python that will do: the one asked for by PYTHON=, the caller's own, Debian's, a newer one beside it.
find_python() {
    local candidates=(python3 /usr/bin/python3 python3.13 python3.12 python3.11) candidate
    [[ -n "${PYTHON:-}" ]] && candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        usable_python "$candidate" && python="$candidate" && return
    done
    return 1
}

# --- the virtual environment ------------------------------------------------------------------------------------------

# digest FILE...: of where we are and what the files and this one hold. A virtual environment does not survive a move.
digest() { { pwd && sha256sum scripts/setup.sh "$@"; } | sha256sum; }

is_done() { [[ "$(cat ".venv/$1.stamp" 2> /dev/null)" == "$2" ]]; }

pip() { quietly .venv/bin/python -m pip --quiet --disable-pip-version-check "$@"; }

# once NAME FILE...: run install_NAME unless it succeeded before with the same files.
once() {
    local name="$1" digest
    shift
    digest="$(digest "$@")"
    is_done "$name" "$digest" && return
    rm -f ".venv/$name.stamp"
    "install_$name"
    echo "$digest" > ".venv/$name.stamp"
}

install_runtime() {
    find_python || fail "no Python 3.11 or newer with venv and C headers: name one by PYTHON=/path/to/python3"
    say "making .venv with $("$python" --version)"
    quietly "$python" -m venv --clear .venv
    say "installing $(wc -l < requirements/build.lock) build tools and $(wc -l < requirements/runtime.lock) Python packages"
    pip install --requirement requirements/build.lock
    # pyfuse3 comes as source: build it with the tools pinned above, not with whatever is newest today.
    pip install --no-build-isolation --requirement requirements/runtime.lock
}

install_project() {
    say "building the extension, installing .venv/bin/ghostdump"
    # compat: a plain line in a .pth file, where the default adds 15 ms to every start of Python.
    pip install --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
}

install_test() {
    say "installing $(wc -l < requirements/test.lock) Python packages for the tests"
    pip install --requirement requirements/test.lock
}

install_fuzz() {
    say "installing $(wc -l < requirements/fuzz.lock) Python packages for fuzzing"
    pip install --requirement requirements/fuzz.lock
}

# --- the set-ups ------------------------------------------------------------------------------------------------------

warn_without_fuse() {
    [[ -e /dev/fuse ]] || say "/dev/fuse is missing, so nothing can be mounted: modprobe fuse (in a container: give it the device)" >&2
}

setup_runtime() {
    local packages=("${RUNTIME_PACKAGES[@]}")
    if ! .venv/bin/python -c "" 2> /dev/null; then
        rm -f .venv/runtime.stamp
        [[ -n "${PYTHON:-}" ]] || find_python || packages+=("${PYTHON_PACKAGES[@]}")
    fi
    ensure_packages "${packages[@]}"
    once runtime requirements/build.lock requirements/runtime.lock
    local sources
    mapfile -t sources < <(find vdisk/ext4 -name '*.[ch]' ! -name '_*' | sort) # what cffi generates has a leading _
    once project pyproject.toml setup.py vdisk/ext4/_build.py "${sources[@]}"
    warn_without_fuse
}

setup_demo() {
    setup_runtime
    if find_root; then ensure_packages "${DEMO_PACKAGES[@]}"; fi
}

setup_test() {
    setup_runtime
    once test requirements/runtime.lock requirements/test.lock
    ensure_packages "${TEST_PACKAGES[@]}"
}

setup_fuzz() {
    setup_test
    once fuzz requirements/runtime.lock requirements/fuzz.lock
}

case "${1:-}" in
    runtime) setup_runtime ;;
    demo) setup_demo ;;
    test) setup_test ;;
    fuzz) setup_fuzz ;;
    *) fail "usage: scripts/setup.sh runtime | demo | test | fuzz" ;;
esac
