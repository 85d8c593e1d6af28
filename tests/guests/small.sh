# Guests with Debian's kernel and a busybox userland: mini, luks-data, sdboot, extlinux. Made of the host's installed packages
# linux-image-amd64, busybox-static, initramfs-tools and the boot loaders, in seconds. Sourced by make-guest.

# Modules of the initramfs: what the old hardware needs and nothing else.
small_initramfs_modules="ata_piix ata_generic ahci sd_mod mptspi mptsas sym53c8xx ext4 crc32c_generic"
# Modules under /lib/modules: the same, the new hardware and what the userland loads.
small_modules="$small_initramfs_modules virtio_pci virtio_blk virtio_scsi virtio_net virtio_balloon virtio_console virtio-rng
    failover net_failover e1000 e1000e vfat nls_ascii nls_cp437 xfs dm_crypt dm_mod aes_generic aesni_intel xts
    sha256_generic algif_skcipher algif_hash af_alg vmw_pvscsi vmxnet3"

# The newest kernel package of the host.
host_kernel() {
    local v
    for v in $(ls /lib/modules | sort -rV); do
        if [ -f "/boot/vmlinuz-$v" ] && [ -f "/lib/modules/$v/kernel/fs/ext4/ext4.ko" ]; then
            echo "$v"
            return
        fi
    done
    say "no Debian kernel in /boot and /lib/modules: install linux-image-amd64"
    return 1
}

# small_kernel TREE VERSION COMPRESSION: kernel, modules and an initramfs of initramfs-tools without any virtio driver.
small_kernel() {
    local tree=$1 v=$2 conf=$out/work/initramfs-tools modules=$1/usr/lib/modules/$2 file
    install -D -m 600 "/boot/vmlinuz-$v" "$tree/boot/vmlinuz-$v"
    install -m 644 "/boot/config-$v" "$tree/boot/"
    mkdir -p "$modules"
    cp "/lib/modules/$v"/modules.{builtin,builtin.modinfo,order} "$modules/"
    modprobe -S "$v" -aD $small_modules 2>/dev/null | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u |
        while read -r file; do install -D -m 644 "$file" "$modules/${file#/lib/modules/"$v"/}"; done
    [ -n "$(find "$modules" -name virtio_blk.ko)" ]
    depmod -b "$tree/usr" "$v" 2>/dev/null || depmod -b "$tree" "$v"

    mkdir -p "$conf"/{conf.d,hooks,scripts}
    sed "s/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=$3/; s/^RESUME=.*/RESUME=none/" \
        /etc/initramfs-tools/initramfs.conf >"$conf/initramfs.conf"
    echo RESUME=none >"$conf/conf.d/resume"
    printf '%s\n' $small_initramfs_modules >"$conf/modules"
    mkinitramfs -d "$conf" -o "$tree/boot/initrd.img-$v" "$v" 2>&1 | grep -v '^W: ' >&2 || true
    if lsinitramfs "$tree/boot/initrd.img-$v" | grep -E 'virtio_(blk|pci|scsi)'; then
        say "the initramfs must not know virtio"
        return 1
    fi
}

# small_root TREE HOSTNAME: a merged-/usr root with busybox as init, gettys on ttyS0 and tty1, and a static address on eth0.
small_root() {
    local tree=$1 applet
    mkdir -p "$tree"/{boot,dev,proc,sys,run,mnt,data,root,tmp,var/log,var/lib,usr/{bin,sbin,lib},etc/{init.d,network/if-{pre-up,up,down,post-down}.d}}
    ln -s /run "$tree/var/run"
    chmod 1777 "$tree/tmp"
    chmod 700 "$tree/root"
    ln -s usr/bin usr/sbin usr/lib "$tree/"
    install -m 755 /bin/busybox "$tree/usr/bin/busybox"
    for applet in $(/bin/busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$tree/usr/bin/$applet"
    done
    for applet in init getty modprobe ifup ifdown mount; do ln -sf ../bin/busybox "$tree/usr/sbin/$applet"; done
    cp /usr/lib/os-release "$tree/usr/lib/os-release"
    ln -s ../usr/lib/os-release "$tree/etc/os-release"
    cp /etc/debian_version "$tree/etc/"
    echo "$2" >"$tree/etc/hostname"
    echo "root:x:0:0:root:/root:/bin/sh" >"$tree/etc/passwd"
    echo "root:x:0:" >"$tree/etc/group"
    install -m 640 /dev/stdin "$tree/etc/shadow" <<<"root:$(openssl passwd -6 -salt kvmport $password):19700:0:99999:7:::"
    printf 'Debian GNU/Linux 12 (small) \\n \\l\n\n' >"$tree/etc/issue"
    cat >"$tree/etc/inittab" <<'END'
::sysinit:/etc/init.d/rcS
ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100
tty1::respawn:/sbin/getty 38400 tty1 linux
::ctrlaltdel:/sbin/reboot
::shutdown:/bin/umount -a -r
END
    cat >"$tree/etc/network/interfaces" <<'END'
auto lo
iface lo inet loopback

auto eth0
iface eth0 inet static
    address 192.168.77.10
    netmask 255.255.255.0
    gateway 192.168.77.1
END
    install -m 755 /dev/stdin "$tree/etc/init.d/rcS" <<'END'
#!/bin/sh
mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mount -o remount,rw /
hostname -F /etc/hostname
find /sys/devices -name modalias -exec cat {} + | grep -E '^(pci|virtio):' | sort -u | xargs -n 1 modprobe -b -q 2>/dev/null
mount -a
swapon -a 2>/dev/null
mkdir -p /run/network
ifup -a
ip -4 -o addr show scope global | while read -r _ dev _ address _; do echo "network: $dev $address" >/dev/console; done
df -h / /data >/dev/console 2>&1
END
}

# small_grub_cfg VERSION: the grub.cfg of a small guest.
small_grub_cfg() {
    cat <<END
set default=0
set timeout=0

menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class os {
        insmod part_msdos
        insmod ext2
        set root='hd0,msdos1'
        echo    'Loading Linux $1 ...'
        linux   /boot/vmlinuz-$1 root=/dev/sda1 ro console=tty0 console=ttyS0,115200
        echo    'Loading initial ramdisk ...'
        initrd  /boot/initrd.img-$1
}
END
}

# BIOS, MBR, GRUB, ext4 on /dev/sda1.
guest_mini() {
    local tree=$out/work/root v
    v=$(host_kernel)
    mkdir -p "$tree"
    small_root "$tree" mini
    small_kernel "$tree" "$v" zstd
    echo '/dev/sda1 / ext4 errors=remount-ro 0 1' >"$tree/etc/fstab"
    make_disk "$out/sda.raw" 256 <<<'label: dos
        start=2048, type=83, bootable'
    grub_bios "$out/sda.raw" ext2 "$tree"
    small_grub_cfg "$v" >"$tree/boot/grub/grub.cfg"
    make_ext4 "$out/sda.raw" 1 255 root "$tree"
    describe bios ide 256 52:54:00:4b:56:01 "$v" "busybox userland, static 192.168.77.10 on eth0, consoles ttyS0 and tty1"
}
