#!/usr/bin/env bash
# Crash a machine and read the dump: demo.sh
#
# All of it happens in a temporary directory, which is removed at the end and after Ctrl-C. KEEP=1 leaves the vmcore.
set -euo pipefail
project="$(cd "$(dirname "$0")/.." && pwd)"
PATH="$project/.venv/bin:$PATH:/usr/sbin:/sbin"
demo="$(mktemp --directory --tmpdir ghostdump-demo.XXXXXX)"

# An unmount has to wait for a standby that is still writing; a mount that stays in use is left to the user.
clean_up() {
    trap '' INT TERM
    cd /
    local _
    for _ in {1..300}; do
        ghostdump status "$demo/mnt" &> /dev/null || break
        ghostdump unmount "$demo/mnt" &> /dev/null || sleep 0.1
    done
    if ghostdump status "$demo/mnt" &> /dev/null; then
        echo "demo: $demo/mnt is in use; when it is free: ghostdump unmount $demo/mnt" >&2
    elif [[ -n "${KEEP:-}" && -d "$demo/crash" ]]; then
        rm -rf --one-file-system "$demo/disk.img" "$demo/images" "$demo/dmesg.txt" "$demo/mnt"
        echo "demo: the dump is left in $demo/crash"
    else
        rm -rf --one-file-system "$demo"
        echo "demo: nothing is left of it (KEEP=1 make demo leaves the dump)"
    fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# Show a command as one would type it, then run it.
run() {
    printf '\n$ %s\n' "$1"
    eval "$1"
}

run_if_installed() {
    if command -v "${1%% *}" > /dev/null; then
        run "$1"
    fi
}

cd "$demo"
mkdir mnt
ln -s "$project/images" images

run 'ghostdump create disk.img --recipe images/demo.toml'
run 'ghostdump mount disk.img mnt'
run 'mkdir mnt/doc && cp -r /usr/share/doc/[a-c]* mnt/doc/ && sync mnt/doc && find mnt/doc -type f | wc -l'
run 'ghostdump status mnt'
run 'ghostdump crash mnt --bugcheck 0xD1'
run 'ghostdump mount disk.img mnt'
run_if_installed 'file mnt/var/crash/1/vmcore'
run_if_installed 'makedumpfile --dump-dmesg mnt/var/crash/1/vmcore dmesg.txt > /dev/null && tail -n 3 dmesg.txt'
run_if_installed 'gdb -nx -batch -core mnt/var/crash/1/vmcore -ex "info registers rip rsp" 2> /dev/null | tail -n 2'
run_if_installed "drgn -q --no-default-symbols -c mnt/var/crash/1/vmcore -e 'print(prog[\"UTS_RELEASE\"])' 2> /dev/null"
run 'find mnt/doc -type f | wc -l'
if [[ -n "${KEEP:-}" ]]; then
    run 'cp -r mnt/var/crash .'
fi
run 'ghostdump unmount mnt'
run 'e2fsck -fn disk.img'
echo
