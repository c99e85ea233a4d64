#!/bin/sh
# Runs the README's two commands on a fresh Debian 12 with nothing but python3 and python3-venv, as an unprivileged
# user, in a clone of this checkout's last commit:
#
#   sudo tests/fresh_machine.sh [DIRECTORY FOR THE BASE SYSTEM]
#
# Needs debootstrap and git. The base system is kept for the next time; it, and pip inside it, use the mirror and the
# settings that this machine has for apt and pip. Everything runs in namespaces that end with this script.
set -eu

checkout=$(cd "$(dirname "$0")/.." && pwd)
cache=${1:-${TMPDIR:-/tmp}/rollbridge-fresh-machine}
base=$cache/bookworm
user=visitor

if [ "$(id -u)" != 0 ]; then
    echo "fresh_machine.sh: making a root directory takes root" >&2
    exit 2
fi
if [ -z "${FRESH_MACHINE_INSIDE:-}" ]; then
    FRESH_MACHINE_INSIDE=1 exec unshare --mount --pid --fork --kill-child --mount-proc --propagation private "$0" "$@"
fi

readme_command() { sed -n "/^<!-- $1 command -->\$/,/^\`\`\`\$/{/^<!--/d;/^\`\`\`/d;p}" "$checkout/README.md"; }

if [ ! -e "$base.made" ]; then
    rm -rf "$base"
    mkdir -p "$base"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Codename: bookworm' | head -n 1)
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$base" ${mirror:+"$mirror"}
    touch "$base.made"
fi

root=$(mktemp -d "$cache/root.XXXXXX")
trap 'umount -R "$root/proc" "$root/dev/shm" "$root/dev/pts" 2>/dev/null || true; rm -rf --one-file-system "$root"' EXIT
cp -a --reflink=auto "$base/." "$root/"
chmod 755 "$root"
mount -t proc proc "$root/proc"
mkdir -p "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
chroot "$root" useradd --create-home --shell /bin/sh "$user"
home=$root/home/$user

# How this machine reaches its package index: names, certificates, pip's configuration and environment.
cp /etc/resolv.conf /etc/hosts "$root/etc/"
if [ -f /etc/pip.conf ]; then cp /etc/pip.conf "$root/etc/pip.conf"; fi
for settings in "${HOME:-/root}/.config/pip/pip.conf" "${HOME:-/root}/.pip/pip.conf"; do
    if [ -f "$settings" ]; then
        mkdir -p "$home/.config/pip"
        cp "$settings" "$home/.config/pip/pip.conf"
        break
    fi
done
settings=$(
    echo LANG=C.UTF-8
    env | grep -E '^(PIP_[A-Z_]+|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|[a-z]+_proxy|[A-Z]+_PROXY)=' || true
)
certificates=$(python3 -m pip config get global.cert 2>/dev/null || true)
for file in $certificates "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}"; do
    if [ -f "$file" ]; then
        mkdir -p "$root$(dirname "$file")"
        cp -L "$file" "$root$file"
    fi
done

git -c safe.directory='*' clone --quiet --no-hardlinks "$checkout" "$home/rollbridge"
chroot "$root" chown -R "$user:$user" "/home/$user"

as_visitor() {
    printf '%s\n' "$settings" | tr '\n' '\0' | xargs -0 sh -c '
        root=$1 user=$2 command=$3; shift 3
        exec chroot --userspec="$user:$user" "$root" env -i "$@" \
            HOME="/home/$user" USER="$user" PATH=/usr/local/bin:/usr/bin:/bin \
            sh -c "cd ~/rollbridge && $command" </dev/null' sh "$root" "$user" "$1"
}

left_behind() { ps -u "$(chroot "$root" id -u "$user")" -o pid=,args=; }

outcome=0
for name in demo test; do
    command=$(readme_command "$name")
    [ -n "$command" ] || { echo "fresh_machine.sh: the README has no $name command" >&2; exit 2; }
    echo "== $name: $command"
    begun=$(date +%s)
    if as_visitor "$command"; then
        echo "== $name: passed in $(($(date +%s) - begun)) s"
    else
        echo "== $name: FAILED after $(($(date +%s) - begun)) s"
        outcome=1
    fi
    if left=$(left_behind); then
        echo "== $name: FAILED, it left processes behind:"
        echo "$left"
        outcome=1
    fi
done
exit $outcome
