#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The first program of kvm-p2v's boot medium: finds the hardware, then runs what the kernel's command line asks for, or
# the text dialogue on the console whose Enter key is pressed first. It mounts nothing of the machine that it runs on.
#
# Called again as "/init console TTY" for the dialogue on one console.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
after=/run/p2v/after # one word of kvm-p2v dialog: dialog, poweroff, reboot or shell

consoles() { # the terminals behind the kernel's consoles
    for name in $(cat /sys/class/tty/console/active 2>/dev/null); do
        case $name in tty0) echo tty1 ;; *) echo "$name" ;; esac
    done
}

say() { for name in $(consoles); do echo "kvm-p2v: $*" >"/dev/$name"; done; }

show() { # a copy of the input on every console; carriage returns for serial ones come from the terminal
    set --
    for name in $(consoles); do set -- "$@" "/dev/$name"; done
    tee -a "$@" >/dev/null
}

# Drivers for what is there. Each may bring new devices: until nothing new comes, there is a disk and a network card, or
# time is up.
load_drivers() {
    echo none >/run/p2v/asked # grep -f takes no empty file here
    round=0 still=0
    while [ $round -lt 40 ] && [ $still -lt 4 ]; do
        find /sys/devices -name modalias -exec cat {} + 2>/dev/null | grep -v '^dmi:' | sort -u | grep -vxFf /run/p2v/asked >/run/p2v/new
        now=$(ls /sys/class/block /sys/class/net | md5sum)
        if [ -s /run/p2v/new ]; then
            set --
            while read -r alias; do set -- "$@" "$alias"; done </run/p2v/new
            modprobe -abq -- "$@" 2>/dev/null
            cat /run/p2v/new >>/run/p2v/asked
            still=0
        elif [ "$now" != "$before" ]; then
            still=0
        elif [ $round -ge 20 ] || { ls -d /sys/block/*/device && ls -d /sys/class/net/*/device; } >/dev/null 2>&1; then
            still=$((still + 1))
        fi
        before=$now round=$((round + 1))
        sleep 0.5
    done
}

# A write to a disk of this machine fails in the kernel, whoever tries. One that is plugged in later may be where somebody
# wants to capture to, and stays as it is.
protect_disks() {
    for entry in /sys/class/block/*; do
        name=${entry##*/}
        case $name in loop* | ram* | zram*) continue ;; esac
        blockdev --setro "/dev/$(echo "$name" | tr '!' '/')" 2>/dev/null
    done
}

leave() { # poweroff or reboot
    sync
    say "$1"
    sleep 1
    "$1" -f
}

console() { # the dialogue or a shell on one console; runs in a session of its own
    tty=$1
    case $tty in tty[0-9]*) export TERM=linux ;; *) export TERM=vt220 ;; esac
    while :; do
        printf '\r\n\r\nkvm-p2v on %s: press Enter to begin here. ' "$tty"
        read -r _ || sleep 1
        if ! mkdir /run/p2v/busy 2>/dev/null; then
            printf 'It runs on another console.\r\n'
            continue
        fi
        kvm-p2v dialog --after "$after"
        word=$(cat "$after" 2>/dev/null)
        rm -f "$after"
        case $word in
        poweroff | reboot) leave "$word" ;;
        shell)
            printf '\r\nThe disks of this machine are read-only. "exit" leads back.\r\n'
            sh
            ;;
        esac
        rmdir /run/p2v/busy
    done
}

on_consoles() { # starts console() on each
    for name in $(consoles); do
        setsid sh -c 'exec <"/dev/$0" >"/dev/$0" 2>&1; stty sane 2>/dev/null; exec /init console "$0"' "$name" &
    done
}

if [ "$1" = console ]; then
    console "$2"
fi

/bin/busybox mkdir -p /proc /sys /dev /run /tmp /root
/bin/busybox mount -t proc -o nosuid,nodev,noexec proc /proc
/bin/busybox mount -t sysfs -o nosuid,nodev,noexec sys /sys
/bin/busybox mount -t devtmpfs -o nosuid dev /dev
/bin/busybox mkdir -p /dev/pts /run/p2v
/bin/busybox mount -t devpts -o nosuid,noexec pts /dev/pts
/bin/busybox --install -s 2>/dev/null
ln -sf /proc/self/fd /dev/fd
hostname p2v
ip link set lo up
# Nothing may disturb a capture of hours: no lockup watchdog, no dark screen, no kernel message over the dialogue.
echo 0 >/proc/sys/kernel/watchdog 2>/dev/null
echo '3 4 1 3' >/proc/sys/kernel/printk
[ ! -e /dev/tty1 ] || printf '\033[9;0]\033[14;0]' >/dev/tty1

say "looking for disks and network cards"
load_drivers
[ ! -d /sys/firmware/efi/efivars ] || mount -t efivarfs -o ro,nosuid,nodev,noexec efivarfs /sys/firmware/efi/efivars 2>/dev/null
protect_disks
mdev -d 2>/dev/null # for devices that come later
say "disks: $(cd /sys/block && ls -d */device 2>/dev/null | sed 's|/device||' | tr '\n' ' ')- network cards: $(cd /sys/class/net && ls -d */device 2>/dev/null | sed 's|/device||' | tr '\n' ' ')"

kvm-p2v dialog --unattended --after "$after" 2>&1 | show
word=$(cat "$after" 2>/dev/null)
rm -f "$after"
case $word in
poweroff | reboot) leave "$word" ;;
shell)
    mkdir /run/p2v/busy
    for name in $(consoles); do
        setsid sh -c 'exec <"/dev/$0" >"/dev/$0" 2>&1; stty sane 2>/dev/null; while :; do sh; done' "$name" &
    done
    ;;
*) on_consoles ;;
esac
while :; do
    wait
    sleep 3600
done
