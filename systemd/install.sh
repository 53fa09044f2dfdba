#!/bin/sh
# `make install` and `make uninstall`: what goes where, and what is left alone. From the root of the source tree.
#
#   /opt/workermand               a venv of $PYTHON with workermand in it
#   /etc/workermand/workers.toml  the configuration      \  yours once they are there:
#   /srv/workermand/apps          the handlers           /  neither is ever overwritten
#   /etc/systemd/system, sysusers.d, tmpfiles.d, sysctl.d; /usr/local/bin/workermand, workermanctl
#
# $DESTDIR: everything below that directory, for packaging; nothing of the running system is touched then.
set -eu
umask 022

PYTHON=${PYTHON:-/usr/bin/python3}
DESTDIR=${DESTDIR:-}
VENV=/opt/workermand
# What was put where the administrator may change it, to tell at uninstall whether he did.
ORIGINAL=$DESTDIR$VENV/share/workermand/original
CONFIG=/etc/workermand/workers.toml
APPS=/srv/workermand/apps
UNITS='workermand.service workermand-unprivileged.service workermand@.service workermand.socket'

say() { echo "workermand: $*"; }
on_this_system() { [ -z "$DESTDIR" ]; }
under_systemd() { on_this_system && [ -d /run/systemd/system ]; }

need_root() {
    on_this_system || return 0
    [ "$(id -u)" = 0 ] || { echo "make $1: needs root (or DESTDIR)" >&2; exit 1; }
}

install_venv() {
    "$PYTHON" -m venv "$DESTDIR$VENV"
    # --use-pep517: the pip of Debian 12 would build sdnotify in a way that it itself warns about.
    "$DESTDIR$VENV/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --use-pep517 --upgrade .
    # A venv names itself by its whole path: by the one it will have.
    on_this_system || grep -rlIF "$DESTDIR$VENV" "$DESTDIR$VENV/bin" "$DESTDIR$VENV/pyvenv.cfg" |
        xargs sed -i "s|$DESTDIR$VENV|$VENV|g"
    mkdir -p "$DESTDIR/usr/local/bin"
    for program in workermand workermanctl; do
        ln -sf "$VENV/bin/$program" "$DESTDIR/usr/local/bin/$program"
    done
}

# The file of the source tree, for its new place: where the handlers are, and that workers do not run as root.
installed_config() {
    sed -e "s|^app_path = .*|app_path = [\"${APPS%/apps}\"]|" \
        -e 's|^# user = "workermand"$|user = "workermand"|' config/workers.toml
}

install_config() {
    if [ -e "$DESTDIR$CONFIG" ]; then
        say "$CONFIG is kept as it is"
    else
        mkdir -p "$ORIGINAL" "$DESTDIR${CONFIG%/*}"
        installed_config > "$ORIGINAL/workers.toml"
        if [ "$(grep -c -e "^app_path = .*${APPS%/apps}" -e '^user = ' "$ORIGINAL/workers.toml")" != 2 ]; then
            echo "config/workers.toml lacks the lines that become the installed ones" >&2
            exit 1
        fi
        cp "$ORIGINAL/workers.toml" "$DESTDIR$CONFIG"
    fi
}

install_apps() {
    if [ -e "$DESTDIR$APPS" ]; then
        say "$APPS is kept as it is"
    else
        rm -rf "$ORIGINAL/apps"
        mkdir -p "$ORIGINAL" "$DESTDIR${APPS%/*}"
        cp -R apps "$ORIGINAL/apps"
        find "$ORIGINAL/apps" -name __pycache__ -prune -exec rm -r {} +
        chmod -R u=rwX,go=rX "$ORIGINAL/apps"
        cp -R "$ORIGINAL/apps" "$DESTDIR$APPS"
    fi
}

# put FILE DIRECTORY [NAME]
put() {
    mkdir -p "$DESTDIR$2"
    install -m 644 "systemd/$1" "$DESTDIR$2/${3:-$1}"
}

install_units() {
    for unit in $UNITS; do put "$unit" /etc/systemd/system; done
    put workermand.sysusers /etc/sysusers.d workermand.conf
    put workermand.tmpfiles /etc/tmpfiles.d workermand.conf
    put workermand.sysctl /etc/sysctl.d 60-workermand.conf
}

take_effect() {
    on_this_system || return 0
    systemd-sysusers /etc/sysusers.d/workermand.conf
    systemd-tmpfiles --create /etc/tmpfiles.d/workermand.conf
    /lib/systemd/systemd-sysctl /etc/sysctl.d/60-workermand.conf ||
        say "the kernel's settings in /etc/sysctl.d/60-workermand.conf could not all be made"
    ! under_systemd || systemctl daemon-reload
    if under_systemd && systemctl --quiet is-active workermand; then
        say "installed; next: systemctl restart workermand"
    else
        say "installed; next: systemctl enable --now workermand"
    fi
}

# remove_unless_changed WHAT ORIGINAL
remove_unless_changed() {
    [ -e "$DESTDIR$1" ] || return 0
    if diff -r -q -x __pycache__ "$DESTDIR$1" "$2" >/dev/null 2>&1; then
        rm -r "$DESTDIR$1"
        rmdir "$DESTDIR${1%/*}" 2>/dev/null || say "${1%/*} holds other files and is kept"
    else
        say "$1 was changed and is kept"
    fi
}

uninstall() {
    if under_systemd; then
        systemctl list-units --all --plain --no-legend 'workermand*.service' 'workermand*.socket' | while read -r unit _; do
            systemctl disable --now --quiet "$unit" 2>/dev/null || systemctl stop "$unit"
        done
    fi
    for unit in $UNITS; do rm -f "$DESTDIR/etc/systemd/system/$unit"; done
    # Instances that are enabled and not running are in no list of units.
    rm -f "$DESTDIR"/etc/systemd/system/*.wants/workermand*
    rm -f "$DESTDIR/etc/sysusers.d/workermand.conf" "$DESTDIR/etc/tmpfiles.d/workermand.conf" "$DESTDIR/etc/sysctl.d/60-workermand.conf"
    ! under_systemd || systemctl daemon-reload
    remove_unless_changed "$CONFIG" "$ORIGINAL/workers.toml"
    remove_unless_changed "$APPS" "$ORIGINAL/apps"
    rm -f "$DESTDIR/usr/local/bin/workermand" "$DESTDIR/usr/local/bin/workermanctl"
    rm -rf "$DESTDIR$VENV"
    ! on_this_system || rm -rf /run/workermand
    [ ! -e "$DESTDIR/var/lib/workermand" ] || say "/var/lib/workermand, what the workers have kept, is yours to remove; so is the user workermand"
}

case ${1-} in
    install)
        need_root install
        install_venv
        install_config
        install_apps
        install_units
        take_effect
        ;;
    uninstall)
        need_root uninstall
        uninstall
        ;;
    *)
        echo "usage: $0 install | uninstall" >&2
        exit 2
        ;;
esac
