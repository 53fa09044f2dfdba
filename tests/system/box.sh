#!/usr/bin/env bash
#
# box.sh - boots a REAL systemd as PID 1 in a throw-away sandbox, drives it with
#          systemctl / journalctl from a test, and leaves nothing behind.
#
#   box.sh up   [OPTIONS]            boot a box, return when it is ready
#   box.sh exec [OPTIONS] CMD...     run CMD inside (its exit code is ours)
#   box.sh down                      shut it down, remove every trace
#   box.sh logs                      boot log, failed units, journal
#   box.sh check                     can this machine do it? (changes nothing)
#
# up options:
#   --bind SRC[:DST]      bind SRC (file or directory) read-write at DST (default: SRC);
#                         no ':' in either
#   --bind-ro SRC[:DST]   the same, read-only
#   --timeout SECONDS     give up when not booted by then   (default 60)
#   --ttl SECONDS         the box kills itself after this   (default 3600)
# exec options:
#   --chdir DIR           working directory inside          (default /)
#   --setenv NAME=VALUE   add to the (otherwise clean) environment
# every subcommand:
#   --name NAME           which box (default: "default")
#
# Exit codes: exec gives CMD's own (126/127: could not be run / not found; a signal:
# 128+N).  Ours: 2 usage, 77 this machine cannot do it (the message says what is
# lacking), 125 box missing, already there, or failed to boot.
#
# How it works (no root file system is built and no daemon is installed):
#   * new mount, PID, UTS, IPC, cgroup and network namespaces by unshare(1), all
#     mounts private: nothing propagates to the host, and when the box's PID 1 dies
#     the kernel removes its processes, mounts and files by itself;
#   * the box's / is an overlayfs: the host's own root below (never written to), a
#     tmpfs above (everything the box writes; gone with it).  Host mounts below /
#     (say /home) come along, copy-on-write too; /proc /sys /dev /run /tmp are new;
#   * a cgroup2 of its own, delegated to it by a cgroup namespace;
#   * /proc/sys and /sys are read-only, and the capabilities that act on the whole
#     machine (clock, modules, raw I/O, kernel log, audit) are dropped.
# This isolates well-meant tests from the machine.  It is NOT a security boundary:
# root in the box is real root (no user namespace).
#
# Needs: root; bash >= 5, coreutils >= 8.31, util-linux >= 2.33 (unshare nsenter setpriv
# script pivot_root mount), systemd.  dbus is wanted for busctl/D-Bus only: systemctl
# talks to PID 1 directly.  Linux >= 5.14 with overlayfs, tmpfs, cgroup2, namespaces.

set -u -o pipefail
export LC_ALL=C

readonly EX_USAGE=2 EX_UNAVAILABLE=77 EX_BOX=125
readonly BASE=/run/systemd-box
SELF=$(readlink -f -- "${BASH_SOURCE[0]}"); readonly SELF
NAME=default

# Capabilities that reach out of the namespaces.  Much as systemd-nspawn drops.
readonly DROP_CAPS=-sys_module,-sys_rawio,-sys_time,-syslog,-mac_admin,-mac_override,-wake_alarm,-block_suspend,-audit_control,-audit_read,-sys_pacct

# Vendor units of no use in a box: hardware, console, clock, kernel settings, logins.
MASKED_UNITS=(
    console-getty.service container-getty@.service getty.target getty@.service
    getty-static.service serial-getty@.service
    cryptsetup.target integritysetup.target veritysetup.target remote-fs.target
    dev-hugepages.mount kmod-static-nodes.service modprobe@.service
    proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount
    sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount
    sys-kernel-tracing.mount
    systemd-ask-password-console.path systemd-ask-password-wall.path
    systemd-binfmt.service systemd-boot-system-token.service systemd-boot-update.service
    systemd-firstboot.service systemd-homed.service systemd-hostnamed.socket
    systemd-hwdb-update.service systemd-initctl.socket systemd-initctl.service
    systemd-journald-audit.socket systemd-logind.service
    systemd-machine-id-commit.service systemd-modules-load.service
    systemd-network-generator.service systemd-networkd.service systemd-networkd.socket
    systemd-oomd.service systemd-oomd.socket systemd-pcrphase-sysinit.service
    systemd-pcrphase.service systemd-pcrmachine.service systemd-pstore.service
    systemd-random-seed.service systemd-remount-fs.service systemd-repart.service
    systemd-resolved.service systemd-sysctl.service systemd-timesyncd.service
    systemd-tmpfiles-clean.timer systemd-tpm2-setup.service
    systemd-tpm2-setup-early.service systemd-udev-settle.service
    systemd-udev-trigger.service systemd-udevd.service systemd-udevd-control.socket
    systemd-udevd-kernel.socket systemd-update-done.service
    systemd-update-utmp.service systemd-update-utmp-runlevel.service
    systemd-userdbd.service systemd-userdbd.socket
    dbus-org.freedesktop.home1.service dbus-org.freedesktop.login1.service
    dbus-org.freedesktop.network1.service dbus-org.freedesktop.oom1.service
    dbus-org.freedesktop.resolve1.service dbus-org.freedesktop.timesync1.service
)

say() { printf 'box.sh: %s\n' "$*" >&2; }
die() { local code=$1; shift; say "$*"; exit "$code"; }
usage() { sed -n '3,/^# Exit codes/p' "$SELF" | sed '$d;s/^# \{0,1\}//' >&2; exit "$EX_USAGE"; }

# ---------------------------------------------------------------- small helpers

# start_time PID: when the process started, in ticks.  PID + start time name one
# process for good, so a reused PID is never signalled.
start_time() {
    local stat field
    { read -r stat < "/proc/$1/stat"; } 2>/dev/null || return 1
    read -r -a field <<< "${stat##*) }"     # the name may hold spaces and brackets
    [ "${field[0]}" != Z ] || return 1      # a zombie is as good as gone
    printf '%s\n' "${field[19]}"
}

# alive FILE: FILE holds "PID START" of a process that still runs; sets PID.
PID=
alive() {
    local start
    PID=
    { read -r PID start < "$1"; } 2>/dev/null || return 1
    [ -n "$PID" ] && [ "$(start_time "$PID")" = "$start" ]
}

now_ms() { local t=${EPOCHREALTIME/[.,]/}; printf '%s\n' "${t%???}"; }

# set_box: check NAME, derive what depends on it.
set_box() {
    case $NAME in
        ''|.*|*[!A-Za-z0-9_.-]*) die "$EX_USAGE" "bad box name '$NAME' (letters, digits, . _ -)" ;;
    esac
    STATE=$BASE/$NAME
    CGNAME=systemd-box-$NAME
}

find_systemd() {
    local f
    for f in /usr/lib/systemd/systemd /lib/systemd/systemd; do
        [ -x "$f" ] && { printf '%s\n' "$f"; return 0; }
    done
    return 1
}

# own_cgroup: our path in cgroup2.
own_cgroup() { sed -n 's/^0:://p' /proc/self/cgroup; }

# ------------------------------------------------------------------------ check

# Says what is lacking and returns 77, or returns 0.
preflight() {
    local bad=0 cmd fs out
    lack() { say "lacking: $*"; bad=1; }
    [ "$EUID" = 0 ] || lack "root (this is uid $EUID)"
    for cmd in unshare nsenter setpriv setsid pivot_root mount umount script env stat mknod realpath find sed grep; do
        command -v "$cmd" >/dev/null ||
            lack "the command $cmd (Debian: util-linux, mount, bsdutils, coreutils, findutils, sed, grep)"
    done
    find_systemd >/dev/null || lack "systemd (Debian: apt-get install systemd)"
    for fs in overlay tmpfs cgroup2 proc sysfs devpts; do
        grep -qw -- "$fs" /proc/filesystems 2>/dev/null ||
            { [ "$fs" = overlay ] && modprobe overlay 2>/dev/null; } ||
            lack "the file system $fs in the kernel"
    done
    for fs in mnt pid uts ipc net cgroup; do
        [ -e "/proc/self/ns/$fs" ] || lack "$fs namespaces in the kernel"
    done
    env --default-signal true 2>/dev/null || lack "env --default-signal (coreutils >= 8.31)"
    [ "$bad" = 0 ] || return "$EX_UNAVAILABLE"
    # The proof: do it all once in namespaces that are gone when the shell ends.
    # (Mounting over /tmp is seen there only.)
    if ! out=$(unshare --mount --propagation private --pid --uts --ipc --net --cgroup --fork \
        bash -c '
            try() { "$@" || { echo "refused: $*"; exit 1; }; }
            try mount -t tmpfs tmpfs /tmp
            mkdir /tmp/u /tmp/w /tmp/r /tmp/c || exit 1
            try mount -t overlay overlay -o lowerdir=/,upperdir=/tmp/u,workdir=/tmp/w /tmp/r
            try mount -t cgroup2 cgroup2 /tmp/c
            try mount -t proc proc /tmp/r/proc
            try mount -t sysfs sysfs /tmp/r/sys
        ' 2>&1); then
        say "lacking: permission to make namespaces, or to mount in them: ${out:-unshare failed}"
        return "$EX_UNAVAILABLE"
    fi
}

cmd_check() {
    preflight || exit
    say "ok: $("$(find_systemd)" --version | head -n 1), Linux $(uname -r)"
}

# --------------------------------------------------------------------------- up

parse_up() {
    BINDS=() TIMEOUT=60 TTL=3600
    local src dst
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || die "$EX_USAGE" "$1 needs a value"
        case $1 in
            --bind|--bind-ro)
                src=${2%%:*} dst=${2#*:}
                [ -e "$src" ] || die "$EX_USAGE" "$1: no such file or directory: $src"
                src=$(realpath -- "$src"); [ "$dst" != "$2" ] || dst=$src
                case $dst in /*) ;; *) die "$EX_USAGE" "$1: not an absolute path: $dst" ;; esac
                BINDS+=("${1#--}" "$src" "$dst") ;;
            --timeout|--ttl)
                case $2 in ''|*[!0-9]*) die "$EX_USAGE" "$1: not a number of seconds: $2" ;; esac
                if [ "$1" = --ttl ]; then TTL=$2; else TIMEOUT=$2; fi ;;
            --name) NAME=$2 ;;
            *) die "$EX_USAGE" "up: unknown word $1" ;;
        esac
        shift 2
    done
    set_box
}

cmd_up() {
    local begin deadline state='' failed
    parse_up "$@"
    begin=$(now_ms)
    preflight || exit
    claim_state
    declare -p BINDS TTL > "$STATE/config"

    # The supervisor outlives us: own session, no descriptor of ours kept open (a test
    # runner waits for its pipes to close), a private copy of the mounts.
    (
        cd / || exit
        for fd in /proc/self/fd/*; do
            fd=${fd##*/}
            [ "$fd" -le 2 ] || eval "exec $fd>&-" 2>/dev/null
        done
        exec setsid --fork unshare --mount --propagation private \
            bash "$SELF" __supervise "$NAME" </dev/null >>"$STATE/setup.log" 2>&1
    )

    trap 'boot_failed interrupted' INT TERM HUP
    deadline=$((begin + TIMEOUT * 1000))
    while :; do
        if alive "$STATE/leader"; then
            state=$(enter "$PID" timeout 10 systemctl is-system-running 2>/dev/null)
            case $state in
                running|degraded) break ;;
                maintenance) boot_failed "systemd went to rescue mode" ;;
            esac
        elif [ -e "$STATE/died" ] || [ ! -d "$STATE" ]; then
            boot_failed "the box died while booting"
        fi
        [ "$(now_ms)" -lt "$deadline" ] || boot_failed "not booted within $TIMEOUT s (state: ${state:-none})"
        sleep 0.05
    done
    trap - INT TERM HUP
    : > "$STATE/booted"
    if [ "$state" = degraded ]; then
        failed=$(enter "$PID" systemctl list-units --failed --plain --no-legend --no-pager | cut -d' ' -f1 | tr '\n' ' ')
        state="degraded, failed: $failed"
    fi
    begin=$(( $(now_ms) - begin ))
    printf "box '%s' ready in %d.%02d s (%s)\n" \
        "$NAME" $((begin / 1000)) $((begin % 1000 / 10)) "$state"
}

# The box's directory is its lock, too.
claim_state() {
    local i
    for ((i = 0; i < 20; i++)); do
        (umask 077; mkdir -p -- "$BASE") || break
        mkdir -m 700 -- "$STATE" 2>/dev/null && return 0
        # There is one.  Up, dying, or left by a crash?
        if [ "$i" -ge 5 ] && [ -d "$STATE" ]; then     # (0.5 s for it to do either)
            ! alive "$STATE/leader" || die "$EX_BOX" "box '$NAME' is already up"
            alive "$STATE/supervisor" || remove_traces
        fi
        sleep 0.1
    done
    die "$EX_BOX" "cannot have $STATE: another box '$NAME' is starting, or could not be removed"
}

boot_failed() {
    say "$1"
    show_logs >&2
    shut_down force
    exit "$EX_BOX"
}

# --------------------------------------- supervisor (private mount namespace, host PIDs)

cmd___supervise() {
    NAME=$1; set_box
    # shellcheck disable=SC1091
    . "$STATE/config"
    printf '%s %s\n' $$ "$(start_time $$)" > "$STATE/supervisor.new"
    mv "$STATE/supervisor.new" "$STATE/supervisor"
    local child ttl cgparent
    ended() { echo "supervisor: $*"; : > "$STATE/died"; exit 1; }

    # Our own mount of cgroup2, as the host may have none, or have it elsewhere.
    mkdir "$STATE/cg" "$STATE/root" && mount -t cgroup2 cgroup2 "$STATE/cg" || ended "no cgroup2"
    cgparent=$(own_cgroup)
    case $cgparent in */..*) cgparent= ;; esac         # not below what we can see
    cgparent=${cgparent#/}; cgparent=${cgparent:+/${cgparent%/}}
    printf '%s\n' "$cgparent/$CGNAME" > "$STATE/cgroup"
    cgroup_gone                                        # left by a crash
    mkdir "$STATE/cg$cgparent/$CGNAME" || ended "cannot make a cgroup in '$cgparent/'"

    # script(1) gives the box a console, kept in a log: the only place where systemd
    # can complain before its journal runs.  unshare kills the box should it be killed.
    SHELL=/bin/sh script --quiet --flush --return --command \
        "exec unshare --mount --propagation private --pid --uts --ipc --net --fork --kill-child bash $(printf '%q' "$SELF") __init $NAME" \
        "$STATE/console.log" </dev/null >/dev/null &
    child=$!
    setpriv --pdeathsig KILL sleep "$TTL" &
    ttl=$!
    trap ':' TERM HUP INT
    wait -n "$child" "$ttl"
    if kill -0 "$child" 2>/dev/null; then               # its time is over
        alive "$STATE/leader" && kill -KILL "$PID"
        wait "$child"
    fi
    kill "$ttl" 2>/dev/null
    : > "$STATE/died"
    cgroup_gone && umount -l "$STATE/cg" || exit       # 'down' tries again, and complains
    # A box that was up and ended by itself (poweroff) goes without a trace; one that
    # never came up is left for 'up' to show, and to remove.
    [ ! -e "$STATE/leader" ] || [ ! -e "$STATE/booted" ] || remove_state
}

# Ends what is left in the box's cgroup, and removes it.  Needs no mount on the host.
cgroup_gone() {
    [ -e "$STATE/cgroup" ] || return 0
    unshare --mount --propagation private bash "$SELF" __cgroup_gone "$NAME"
}

cmd___cgroup_gone() {
    NAME=$1; set_box
    local path i
    mkdir -p "$STATE/cg"
    [ -e "$STATE/cg/cgroup.procs" ] || mount -t cgroup2 cgroup2 "$STATE/cg" || return
    read -r path < "$STATE/cgroup"
    path=$STATE/cg$path
    case $path in */"$CGNAME") ;; *) return 1 ;; esac
    for ((i = 0; i < 100; i++)); do
        [ -d "$path" ] || return 0
        { echo 1 > "$path/cgroup.kill"; } 2>/dev/null
        find "$path" -depth -type d -exec rmdir {} \; 2>/dev/null
        [ ! -d "$path" ] || sleep 0.05
    done
    return 1
}

remove_state() {        # only names that we made; nothing is ever mounted here on the host
    rm -f -- "$STATE"/{config,supervisor,leader,booted,died,cgroup,console.log,setup.log}
    rmdir -- "$STATE/cg" "$STATE/root" "$STATE" 2>/dev/null
    rmdir -- "$BASE" 2>/dev/null
    [ ! -d "$STATE" ]
}

remove_traces() { cgroup_gone && remove_state; }

# ------------------------------------------------- the box's PID 1, until systemd takes over

# First: still the host's mounts (a private copy), PID 1 of the new PID namespace.
cmd___init() {
    NAME=$1; set_box
    local path self
    # /proc is still the host's: it tells our PID there.
    read -r self _ < /proc/self/stat
    printf '%s %s\n' "$self" "$(start_time "$self")" > "$STATE/leader.new"
    mv "$STATE/leader.new" "$STATE/leader"
    read -r path < "$STATE/cgroup"
    echo 0 > "$STATE/cg$path/cgroup.procs" || exit     # 0: this process
    exec unshare --cgroup bash "$SELF" __pivot "$NAME"
}

# Then: build the new root, move to it, become systemd.
cmd___pivot() {
    NAME=$1; set_box
    # shellcheck disable=SC1091
    . "$STATE/config"
    local top=$STATE/root root i unit console systemd
    fail() { echo "systemd-box: setting up: $*" >> "$STATE/setup.log"; exit 1; }
    console=$(tty)
    systemd=$(find_systemd) || fail "no systemd"
    mount -t tmpfs -o mode=755 tmpfs "$top" || fail "tmpfs"
    mkdir "$top/up" "$top/work" "$top/root" "$top/more"
    root=$top/root
    mount -t overlay -o "lowerdir=/,upperdir=$top/up,workdir=$top/work" systemd-box "$root" ||
        fail "overlay over /"
    [ "$(stat -f -c %T "$root")" = overlayfs ] || fail "$root is no overlay"    # before any rm below

    host_mounts "$top" "$root"

    # -- API file systems, all new
    mount -t proc -o nosuid,nodev,noexec proc "$root/proc" || fail "proc"
    mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys" || fail "sysfs"
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup" || fail "cgroup2"
    mkdir -p "$root/run" "$root/tmp"
    mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs "$root/run" || fail "/run"
    mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/tmp" || fail "/tmp"
    mount -t tmpfs -o nosuid,mode=755 tmpfs "$root/dev" || fail "/dev"
    mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts" || fail "devpts"
    mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/dev/shm" || fail "/dev/shm"
    i=0
    for unit in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
        IFS=: read -r unit path i <<< "$unit"
        mknod -m 666 "$root/dev/$unit" c "$path" "$i" 2>/dev/null ||
            { : > "$root/dev/$unit"; mount --bind "/dev/$unit" "$root/dev/$unit" || fail "/dev/$unit"; }
    done
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    ln -s fd/0 "$root/dev/stdin"; ln -s fd/1 "$root/dev/stdout"; ln -s fd/2 "$root/dev/stderr"
    ln -s /run/systemd/journal/dev-log "$root/dev/log"
    case $console in
        /dev/*) : > "$root/dev/console"; mount --bind "$console" "$root/dev/console" || fail "console" ;;
    esac
    # Settings of the running kernel: to be read only.
    for i in sys sysrq-trigger irq bus fs; do
        [ -e "$root/proc/$i" ] || continue
        mount --bind "$root/proc/$i" "$root/proc/$i" &&
            mount -o remount,bind,ro,nosuid,nodev,noexec "$root/proc/$i" || fail "/proc/$i"
    done
    for i in kmsg kcore; do                            # the host's kernel log and memory
        [ ! -e "$root/proc/$i" ] || mount --bind "$root/dev/null" "$root/proc/$i" || fail "/proc/$i"
    done

    # -- what this system is to start
    mkdir -p "$root/etc/systemd/system" "$root/etc/systemd/system-generators"
    find "$root/etc/systemd/system" -mindepth 1 -delete            # whiteouts in the overlay
    rm -rf -- "$root"/etc/rc[0-6S].d "$root"/etc/rc.local
    for i in "$root"/{usr/lib,lib,usr/local/lib,etc}/systemd/system-generators/*; do
        [ ! -e "$i" ] || ln -sf /dev/null "$root/etc/systemd/system-generators/${i##*/}"
    done
    for unit in "${MASKED_UNITS[@]}"; do
        [ ! -e "$root/etc/systemd/system/$unit" ] && ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    mkdir -p "$root/etc/systemd/journald.conf.d" "$root/etc/systemd/system.conf.d"
    # Journal in memory, nothing dropped, the kernel's audit switch left alone.
    printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nAudit=\nReadKMsg=no\nForwardToSyslog=no\n' \
        > "$root/etc/systemd/journald.conf.d/zz-systemd-box.conf"
    { rm -f "$root/etc/machine-id"
      tr -d - < /proc/sys/kernel/random/uuid > "$root/etc/machine-id"
      echo "$CGNAME" > "$root/etc/hostname"
      printf '127.0.1.1 %s\n' "$CGNAME" >> "$root/etc/hosts"; } 2>/dev/null

    binds "$root"

    # -- go
    cd "$root" || fail "cd"
    pivot_root . . || fail "pivot_root"
    umount -l . || exit 1                              # the host's tree, stacked on ours
    cd / || exit 1
    mount --make-rshared /                             # as systemd expects; linked to nothing outside
    exec setpriv --bounding-set "$DROP_CAPS" \
        env -i container=systemd-box PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        "$systemd" --system systemd.unit=multi-user.target systemd.show_status=true
}

# unescape PATH-FROM-MOUNTINFO
unescape() { printf '%b' "${1//\\/\\0}"; }

overlay_path() { printf '%s\n' "$1" | sed 's/[\\:]/\\&/g'; }

# An overlay covers one file system only.  Bring along what the host has mounted below /,
# copy-on-write where that can be done, else read-only.  Apart from completeness this
# keeps hidden what the host has hidden by mounting over it.
host_mounts() {
    local top=$1 root=$2 n=0 field i target opts fstype src dir
    declare -A seen=()
    while read -r -a field; do
        # id parent major:minor root target options optional... - fstype source super
        target=$(unescape "${field[4]}") opts=${field[5]} i=6
        while [ "${field[i]}" != - ]; do i=$((i + 1)); done
        fstype=${field[i + 1]}
        case $target/ in
            //|/proc/*|/sys/*|/dev/*|/run/*|/tmp/*|/var/run/*) continue ;;
            "$STATE"/*|"$BASE"/*) continue ;;
        esac
        case $fstype in autofs|binfmt_misc|cgroup*|proc|sysfs|devpts|devtmpfs|mqueue|debugfs|tracefs|nsfs) continue ;; esac
        [ -z "${seen[$target]-}" ] || continue          # what is on top there counts
        seen[$target]=1
        [ -e "$target" ] || continue
        src=$target dir=$root$target
        if [ -d "$src" ]; then mkdir -p "$dir"; else mkdir -p "${dir%/*}"; [ -e "$dir" ] || : > "$dir"; fi
        n=$((n + 1))
        if [ -d "$src" ] && [[ ,$opts, != *,ro,* ]]; then
            mkdir -p "$top/more/$n/up" "$top/more/$n/work"
            chmod --reference="$src" "$top/more/$n/up"; chown --reference="$src" "$top/more/$n/up"
            mount -t overlay -o "lowerdir=$(overlay_path "$src"),upperdir=$top/more/$n/up,workdir=$top/more/$n/work" \
                systemd-box "$dir" 2>/dev/null && continue
        fi
        mount --bind "$src" "$dir" && mount -o remount,bind,ro "$dir" ||
            fail "the host's mount $target"
    done < /proc/self/mountinfo
}

binds() {
    local root=$1 i kind src dst
    for ((i = 0; i < ${#BINDS[@]}; i += 3)); do
        kind=${BINDS[i]} src=${BINDS[i+1]} dst=$root${BINDS[i+2]}
        if [ -d "$src" ]; then mkdir -p "$dst"; else mkdir -p "${dst%/*}"; [ -e "$dst" ] || : > "$dst"; fi
        mount --bind "$src" "$dst" || fail "--$kind $src:${BINDS[i+2]}"
        [ "$kind" = bind ] || mount -o remount,bind,ro "$dst" || fail "--$kind $src"
    done
}

# ------------------------------------------------------------------- exec, down, ...

# enter PID CMD...: run CMD in the namespaces of PID, with a clean environment.
ENTER_ENV=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
    USER=root LOGNAME=root SHELL=/bin/sh LANG=C.UTF-8 "TERM=${TERM:-dumb}"
    SYSTEMD_PAGER= SYSTEMD_COLORS=0 SYSTEMD_URLIFY=0)
CHDIR=/
enter() { (enter_for_good "$@"); }
enter_for_good() {
    local pid=$1; shift
    exec nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup -- \
        setpriv --bounding-set "$DROP_CAPS" -- \
        env -i --default-signal "--chdir=$CHDIR" "${ENTER_ENV[@]}" "$@"
}

# guarded PID CMD...: the same for a caller's command, with care for what happens if the
# caller is killed (a test's timeout).  Two things must not be: that the command, or what
# it started, runs on and holds the caller's pipes open; and that nsenter dies before
# the command, which would make it a child of the host's PID 1 - and the box's PID
# namespace cannot end before that one has reaped it, which in many a container it
# never does.  So: the command goes to a cgroup of its own, and a guard (in a session of
# its own: timeout(1) kills the whole process group), told by the kernel of our death,
# ends that cgroup while nsenter lives on to reap the command.
guarded() {
    local guard got=1 code
    env --default-signal=INT,QUIT setsid setpriv --pdeathsig USR1 bash "$SELF" __guard "$NAME" "$BASHPID" "$1" "$CHDIR" \
        "${#ENTER_ENV[@]}" "${ENTER_ENV[@]}" "${@:2}" <&0 &
    guard=$!
    trap 'got=1; kill -s TERM "$guard" 2>/dev/null' TERM
    trap 'got=1; kill -s INT "$guard" 2>/dev/null' INT
    trap 'got=1; kill -s HUP "$guard" 2>/dev/null' HUP
    while [ "$got" = 1 ]; do
        got=0
        { wait "$guard"; code=$?; } 2>/dev/null
        kill -0 "$guard" 2>/dev/null || break
    done
    trap - TERM INT HUP
    return "$code"
}

cmd___guard() {
    local caller=$2 pid=$3 n=$5 cg inside got=1 code
    NAME=$1 CHDIR=$4 ENTER_ENV=("${@:6:n}")
    set -- "${@:6+n}"
    inside=/sys/fs/cgroup/systemd-box-exec/$BASHPID cg=/proc/$pid/root
    # pass SIGNAL: to every process that the command has
    # shellcheck disable=SC2317,SC2329
    pass() {
        local p
        got=1
        while read -r p; do kill -s "$1" "$p" 2>/dev/null; done < "$cg$inside/cgroup.procs"
    }
    trap 'got=1; echo 1 > "$cg$inside/cgroup.kill"' USR1
    trap 'pass TERM' TERM; trap 'pass INT' INT; trap 'pass HUP' HUP
    mkdir -p "$cg$inside" || return "$EX_BOX"
    [ -d "/proc/$caller" ] || return "$EX_BOX"         # died before USR1 was agreed
    # shellcheck disable=SC2016
    enter_for_good "$pid" sh -c 'echo 0 > "$1/cgroup.procs" && shift && exec "$@"' sh "$inside" "$@" <&0 &
    while [ "$got" = 1 ]; do
        got=0
        { wait $!; code=$?; } 2>/dev/null          # bash would report "Killed"
        kill -0 $! 2>/dev/null || break
    done
    rmdir "$cg$inside" 2>/dev/null                     # unless it left something running
    return "$code"
}

need_box() {
    set_box
    [ "$EUID" = 0 ] || die "$EX_UNAVAILABLE" "lacking: root (this is uid $EUID)"
    alive "$STATE/leader" || die "$EX_BOX" "box '$NAME' is not up"
}

cmd_exec() {
    while [ $# -gt 0 ]; do
        case $1 in
            --name|--chdir|--setenv) [ $# -ge 2 ] || die "$EX_USAGE" "$1 needs a value" ;;
        esac
        case $1 in
            --name) NAME=$2; shift 2 ;;
            --chdir) CHDIR=$2; shift 2 ;;
            --setenv) ENTER_ENV+=("$2"); shift 2 ;;
            --) shift; break ;;
            -*) die "$EX_USAGE" "unknown option $1" ;;
            *) break ;;
        esac
    done
    [ $# -gt 0 ] || die "$EX_USAGE" "exec: no command"
    need_box
    [ -e /proc/self/fd/0 ] || exec </dev/null          # the caller has closed it
    guarded "$PID" "$@"
}

# shut_down [force]: 10 s to stop in order, then KILL; then remove every trace.
shut_down() {
    local i comm='' supervisor=''
    # Who it is, kept: its file goes before it does, and two that clean up would stumble over each other.
    { read -r supervisor < "$STATE/supervisor"; } 2>/dev/null
    supervised() { alive /dev/stdin <<< "$supervisor"; }
    if [ "${1-}" != force ] && alive "$STATE/leader"; then
        kill -s RTMIN+4 "$PID" 2>/dev/null             # systemd: poweroff.target
        for ((i = 0; i < 200; i++)); do
            alive "$STATE/leader" || break
            # All units are stopped once systemd has become systemd-shutdown.
            { read -r comm < "/proc/$PID/comm"; } 2>/dev/null
            [ "$comm" != systemd-shutdow ] || break
            sleep 0.05
        done
    fi
    if alive "$STATE/leader"; then kill -KILL "$PID" 2>/dev/null; fi
    for ((i = 0; i < 300; i++)); do                    # the supervisor cleans up
        alive "$STATE/leader" || supervised || break
        sleep 0.05
    done
    if supervised; then kill -KILL "$PID" 2>/dev/null; sleep 0.1; fi
    [ ! -d "$STATE" ] || remove_traces
}

cmd_down() {
    only_name "$@"; set_box
    [ -d "$STATE" ] || { say "box '$NAME' is not up"; return 0; }    # as wished
    shut_down || die "$EX_BOX" "box '$NAME': could not remove everything, see $STATE"
}

show_logs() {
    local f
    for f in setup.log console.log; do
        [ -s "$STATE/$f" ] || continue
        printf -- '--- %s\n' "$f"
        sed -e 's/\r$//' -e 's/\x1b\[[0-9;?]*[A-Za-z]//g' "$STATE/$f"
    done
    if alive "$STATE/leader"; then
        printf -- '--- units\n'; enter "$PID" timeout 5 systemctl list-units --state=failed,activating --no-legend 2>&1
        printf -- '--- journal\n'; enter "$PID" timeout 5 journalctl --no-pager -n 60 2>&1
    fi
}

only_name() {
    while [ $# -gt 0 ]; do
        case $1 in
            --name) [ $# -ge 2 ] || die "$EX_USAGE" "--name needs a value"; NAME=$2; shift 2 ;;
            *) die "$EX_USAGE" "unknown word $1" ;;
        esac
    done
}
cmd_logs() { only_name "$@"; need_box; show_logs; }

[ $# -gt 0 ] || usage
sub=$1; shift
case $sub in
    up|exec|down|check|logs|__supervise|__guard|__cgroup_gone|__init|__pivot) "cmd_$sub" "$@" ;;
    -h|--help|help) usage ;;
    *) die "$EX_USAGE" "unknown subcommand '$sub' (try --help)" ;;
esac
