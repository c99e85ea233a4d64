#!/bin/sh
# Deploys one packed release:   deploy.sh ARCHIVE.tar.gz [RELEASE_ID]
#
# Unpacks the archive into its own directory below releases/, prepares it, switches the traffic to it, and
# deletes the directories of releases that rollbridge has forgotten. Whatever fails, the release that served
# before serves on; this script never stops anything.
#
# Set in the environment, or change here:
#   APP_ROOT      directory with rollbridge.toml and releases/       (default: /srv/ticket-server)
#   CONFIG        the configuration                                  (default: $APP_ROOT/rollbridge.toml)
#   ROLLBRIDGE    how to call rollbridge                             (default: /opt/rollbridge/rollbridge.pyz)
#   DAEMON        "ensure": start the daemon when none answers       (default)
#                 "running": it runs already, under systemd for one
#   KEEP          newest directories to keep in any case             (default: 3)
#
# Exit codes: those of rollbridge, so that whoever calls this can tell them apart:
#   0 deployed · 1 failed · 2 called or configured wrongly · 3 no daemon answers · 4 refused

set -eu
umask 022

APP_ROOT=${APP_ROOT:-/srv/ticket-server}
CONFIG=${CONFIG:-$APP_ROOT/rollbridge.toml}
ROLLBRIDGE=${ROLLBRIDGE:-/opt/rollbridge/rollbridge.pyz}
DAEMON=${DAEMON:-ensure}
KEEP=${KEEP:-3}

say() { printf 'deploy: %s\n' "$*" >&2; }
die() {
    code=$1
    shift
    say "$*"
    exit "$code"
}

case $# in
    1 | 2) ;;
    *) die 2 "usage: deploy.sh ARCHIVE.tar.gz [RELEASE_ID]" ;;
esac
archive=$1
release_id=${2:-$(date -u +%Y%m%d-%H%M%S)}
case $release_id in
    [A-Za-z0-9]*) ;;
    *) die 2 "release id '$release_id' does not begin with a letter or a digit" ;;
esac
case $release_id in
    *[!A-Za-z0-9._-]*) die 2 "release id '$release_id' has other characters than letters, digits, '.', '_' and '-'" ;;
esac
case $DAEMON in
    ensure) ensure=--ensure-daemon ;;
    running) ensure= ;;
    *) die 2 "DAEMON is '$DAEMON': set it to ensure or running" ;;
esac
[ -r "$archive" ] || die 2 "archive $archive cannot be read"
[ -r "$CONFIG" ] || die 2 "configuration $CONFIG cannot be read"

rollbridge() { "$ROLLBRIDGE" --config "$CONFIG" "$@"; }

# One deploy script at a time. The lock is the kernel's: it ends with this script, however that ends.
# 9>&- further down keeps it from anything that lives longer.
mkdir -p "$APP_ROOT/releases"
exec 9>"$APP_ROOT/releases/.lock"
flock -n 9 || die 4 "another deploy is running (it holds $APP_ROOT/releases/.lock)"

# --- 1. unpack

release_path=$APP_ROOT/releases/$release_id
[ ! -e "$release_path" ] || die 2 "release $release_id exists already: choose another id"
trap 'rm -rf "$release_path"' EXIT # until it is handed over: half a release is of no use
trap 'exit 1' HUP INT TERM
mkdir "$release_path"
say "unpacking $archive"
tar -xzf "$archive" --no-same-owner -C "$release_path" 9>&- || die 1 "$archive could not be unpacked"
touch "$release_path" # tar has set the time of packing; what is newest is decided below

# --- 2. prepare: what the release needs before it can start (dependencies, assets, a check of its own).
# At its final path: a Python virtual environment, for one, cannot be moved.

if [ -x "$release_path/bin/prepare" ]; then
    say "running bin/prepare"
    (cd "$release_path" && ./bin/prepare) 9>&- || die 1 "bin/prepare failed; nothing was changed"
fi
trap - EXIT

# --- 3. switch. --wait: another deploy (somebody at a terminal) is waited for instead of failing

say "deploying $release_id"
code=0
# shellcheck disable=SC2086 # $ensure is one option or none
rollbridge deploy --release-path "$release_path" --release-id "$release_id" --wait $ensure 9>&- || code=$?
case $code in
    0) ;;
    1)
        rollbridge status 9>&- | head -n 4 >&2 || :
        die 1 "release $release_id failed, see above; its directory is left for a look"
        ;;
    2) rm -rf "$release_path" && die 2 "called or configured wrongly, see above; nothing was changed" ;;
    # Whether a daemon got the order before it went away cannot be known here, so the directory stays.
    3) die 3 "no daemon answers, see above; $release_path is left as it is" ;;
    4) rm -rf "$release_path" && die 4 "refused, see above; nothing was changed" ;;
    *) die 1 "rollbridge ended with exit code $code. See: $ROLLBRIDGE --config $CONFIG status" ;;
esac

# --- 4. delete the directories of releases that status no longer lists

# Those that status lists (active, draining, and kept for a rollback), then the newest $KEEP, then those that
# some process still has as its working directory (a service runs on in the release it was started from).
kept() {
    rollbridge status --json 9>&- | python3 -c '
import json, sys
for release in json.load(sys.stdin)["releases"]:
    print(release["release_path"])' || return 1
    # shellcheck disable=SC2012 # the names are release ids: nothing in them that ls could garble
    ls -1td "$releases"/*/ | head -n "$KEEP" | sed 's:/$::'
    for cwd in /proc/[0-9]*/cwd; do
        readlink "$cwd" 2>/dev/null || :
    done | grep "^$releases/" | cut -d / -f "1-$depth" || :
}

releases=$(cd "$APP_ROOT/releases" && pwd -P)
depth=$(($(printf '%s' "$releases" | tr -cd / | wc -c) + 2)) # fields of the path of a release, cut at "/"
if keep=$(kept); then
    for directory in "$releases"/*/; do
        directory=${directory%/}
        printf '%s\n' "$keep" | grep -qxF "$directory" || {
            say "deleting $directory"
            rm -rf "$directory"
        }
    done
else
    say "status cannot be read; no old release was deleted"
fi
say "release $release_id is active"
