#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# What udhcpc runs on the boot medium: takes the lease's address, routes and name servers.
case $1 in
deconfig)
    ip link set dev "$interface" up
    ip -4 addr flush dev "$interface"
    ;;
bound | renew)
    # A renewal of the same address must not cut connections.
    ip -4 addr replace "$ip/${mask:-24}" dev "$interface"
    ip -4 -o addr show dev "$interface" | while read -r _ _ _ old _; do
        [ "$old" = "$ip/${mask:-24}" ] || ip -4 addr del "$old" dev "$interface"
    done
    if [ "$1" = bound ] || ! ip -4 route show default | grep -q "dev $interface"; then
        for gateway in $router; do
            ip -4 route replace default via "$gateway" dev "$interface"
            break
        done
    fi
    : >/run/p2v/resolv.new
    for server in $dns; do echo "nameserver $server" >>/run/p2v/resolv.new; done
    [ -z "$search$domain" ] || echo "search ${search:-$domain}" >>/run/p2v/resolv.new
    # Name servers that were set by hand stay.
    [ -s /run/p2v/resolv.fixed ] || mv /run/p2v/resolv.new /etc/resolv.conf
    ;;
esac
exit 0
