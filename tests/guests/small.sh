# Guests with Debian's kernel and a busybox userland: mini, silent, luks-data, sdboot, extlinux. Made of the host's installed packages
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
    [ "$3" != xz ] || echo COMPRESSLEVEL=1 >>"$conf/initramfs.conf"
    printf '%s\n' $small_initramfs_modules >"$conf/modules"
    logged mkinitramfs -d "$conf" -o "$tree/boot/initrd.img-$v" "$v"
    old_drivers_only "$tree/boot/initrd.img-$v"
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
for bus in pci virtio; do # the driver of a PCI device may bring virtio devices
    find /sys/devices -name modalias -exec cat {} + | grep "^$bus:" | sort -u | xargs -n 1 modprobe -b -q 2>/dev/null
done
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

# silent_initramfs TREE VERSION: an initramfs that mounts /dev/vda1 and starts its init without a word. One of initramfs-tools can't
# start an init where /dev/console can't be opened.
silent_initramfs() {
    local small=$out/work/initramfs file
    mkdir -p "$small"/{bin,dev,root,lib/modules}
    cp /bin/busybox "$small/bin/"
    {
        echo '#!/bin/busybox sh'
        echo '/bin/busybox mount -t devtmpfs dev /dev'
        echo 'exec </dev/null >/dev/null 2>&1'
        modprobe -S "$2" -aD virtio_pci virtio_blk ext4 crc32c_generic 2>/dev/null | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' |
            while read -r file; do
                cp "$file" "$small/lib/modules/"
                echo "/bin/busybox insmod /lib/modules/${file##*/}"
            done
        echo 'until /bin/busybox mount -t ext4 -o ro /dev/vda1 /root; do /bin/busybox sleep 0.1; done'
        echo '/bin/busybox mount -o move /dev /root/dev'
        echo 'exec /bin/busybox switch_root /root /sbin/init'
    } >"$small/init"
    chmod 755 "$small/init"
    (cd "$small" && find . | cpio --quiet -o -H newc | gzip -1) >"$1/boot/initrd.img-$2"
}

# A guest that was moved to virtio and has no console: once the kernel runs, nothing is seen of it on a serial port or on the screen.
# Its getty is a program of its own, on a terminal that is not shown.
guest_silent() {
    local tree=$out/work/root v
    v=$(host_kernel)
    mkdir -p "$tree"
    small_root "$tree" silent
    rm "$tree/usr/sbin/getty"
    install -m 755 /bin/busybox "$tree/usr/sbin/getty"
    printf '::sysinit:/etc/init.d/rcS\ntty3::respawn:/sbin/getty 38400 tty3 linux\n' >"$tree/etc/inittab"
    small_kernel "$tree" "$v" gzip
    silent_initramfs "$tree" "$v"
    echo '/dev/vda1 / ext4 errors=remount-ro 0 1' >"$tree/etc/fstab"
    make_disk "$out/sda.raw" 256 <<<'label: dos
        start=2048, type=83, bootable'
    grub_bios "$out/sda.raw" ext2 "$tree"
    small_grub_cfg "$v" | sed '/echo/d; s|root=/dev/sda1.*|quiet console=null|' >"$tree/boot/grub/grub.cfg"
    make_ext4 "$out/sda.raw" 1 255 root "$tree"
    describe bios virtio 256 52:54:00:4b:56:08 "$v" "busybox userland, virtio, no console at all, a getty of its own on tty3"
}

# mini with two data disks: ext4 on /dev/sdb1, and a LUKS2 volume on /dev/sdc1 that holds an ext4.
guest_luks_data() {
    local tree=$out/work/root data=$out/work/data secret=$out/work/secret v
    v=$(host_kernel)
    mkdir -p "$tree" "$data" "$secret"
    small_root "$tree" luks-data
    small_kernel "$tree" "$v" zstd
    mkdir "$tree/secret"
    cat >"$tree/etc/fstab" <<'END'
/dev/sda1          /       ext4 errors=remount-ro 0 1
/dev/sdb1          /data   ext4 defaults          0 2
/dev/mapper/secret /secret ext4 noauto,nofail     0 0
END
    echo 'secret /dev/sdc1 none luks,noauto' >"$tree/etc/crypttab"
    make_disk "$out/sda.raw" 256 <<<'label: dos
        start=2048, type=83, bootable'
    grub_bios "$out/sda.raw" ext2 "$tree"
    small_grub_cfg "$v" >"$tree/boot/grub/grub.cfg"
    make_ext4 "$out/sda.raw" 1 255 root "$tree"

    make_disk "$out/sdb.raw" 128 <<<'label: dos
        start=2048, type=83'
    seq 1 200000 >"$data/numbers"
    make_ext4 "$out/sdb.raw" 1 127 data "$data"

    # Half of --reduce-device-size becomes the header; the filesystem ends before the part that is cut off.
    make_disk "$out/sdc.raw" 64 <<<'label: gpt
        start=2048, size=126976, type=CA7D7CCB-63ED-4C53-861C-1742536059CC'
    echo "the secret" >"$secret/secret"
    truncate -s 62M "$out/work/luks"
    make_ext4 "$out/work/luks" 0 46 secret "$secret"
    printf %s $password >"$out/work/key"
    cryptsetup reencrypt --encrypt --type luks2 --reduce-device-size 16M --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --uuid "$(uuid_for luks)" \
        --key-file "$out/work/key" --batch-mode "$out/work/luks"
    cryptsetup open --test-passphrase --key-file "$out/work/key" "$out/work/luks"
    place "$out/work/luks" "$out/sdc.raw" 1
    describe bios scsi-lsi 256 52:54:00:4b:56:05 "$v" "mini with /data on sdb1 and LUKS2 on sdc1, passphrase $password, in crypttab as secret"
}

# UEFI, GPT, systemd-boot with its kernel on the ESP, ext4 root on /dev/sda2.
guest_sdboot() {
    local tree=$out/work/root v id loader=/usr/lib/systemd/boot/efi/systemd-bootx64.efi
    v=$(host_kernel)
    id=$(uuid_for machine-id | tr -d -)
    mkdir -p "$tree"
    small_root "$tree" sdboot
    small_kernel "$tree" "$v" gzip
    mkdir "$tree/boot/efi"
    echo "$id" >"$tree/etc/machine-id"
    printf '/dev/sda2 / ext4 errors=remount-ro 0 1\n/dev/sda1 /boot/efi vfat umask=0077 0 1\n' >"$tree/etc/fstab"
    make_disk "$out/sda.raw" 384 <<END
label: gpt
start=2048, size=196608, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=$(uuid_for esp)
type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709
END
    make_esp "$out/sda.raw" 1 96
    printf 'default %s-*\ntimeout 0\n' "$id" >"$out/work/loader.conf"
    cat >"$out/work/entry.conf" <<END
title      Debian GNU/Linux 12 (bookworm)
version    $v
machine-id $id
options    root=/dev/sda2 ro console=tty0 console=ttyS0,115200
linux      /$id/$v/linux
initrd     /$id/$v/initrd.img-$v
END
    esp_copy "$out/sda.raw" 1 $loader EFI/systemd/systemd-bootx64.efi
    esp_copy "$out/sda.raw" 1 $loader EFI/BOOT/BOOTX64.EFI
    esp_copy "$out/sda.raw" 1 "$out/work/loader.conf" loader/loader.conf
    esp_copy "$out/sda.raw" 1 "$out/work/entry.conf" "loader/entries/$id-$v.conf"
    esp_copy "$out/sda.raw" 1 "$tree/boot/vmlinuz-$v" "$id/$v/linux"
    esp_copy "$out/sda.raw" 1 "$tree/boot/initrd.img-$v" "$id/$v/initrd.img-$v"
    make_ext4 "$out/sda.raw" 97 286 root "$tree"
    python3 "$here/nvram.py" "$out/nvram.fd" 1 2048 196608 "$(uuid_for esp)" '\EFI\systemd\systemd-bootx64.efi' 'Linux Boot Manager'
    describe uefi sata 512 52:54:00:4b:56:06 "$v" "busybox userland, kernel and loader entries on the ESP, root=/dev/sda2"
}

# BIOS, MBR, extlinux on the ext4 root /dev/sda1.
guest_extlinux() {
    local tree=$out/work/root v
    v=$(host_kernel)
    mkdir -p "$tree/boot/extlinux" "$out/work/mnt"
    small_root "$tree" extlinux
    small_kernel "$tree" "$v" xz
    echo '/dev/sda1 / ext4 errors=remount-ro 0 1' >"$tree/etc/fstab"
    cat >"$tree/boot/extlinux/extlinux.conf" <<END
default linux
timeout 1

label linux
    menu label Debian GNU/Linux 12
    kernel /boot/vmlinuz-$v
    append initrd=/boot/initrd.img-$v root=/dev/sda1 ro console=tty0 console=ttyS0,115200
END
    make_disk "$out/sda.raw" 256 <<<'label: dos
        start=2048, type=83, bootable'
    dd if=/usr/lib/EXTLINUX/mbr.bin of="$out/sda.raw" bs=440 count=1 conv=notrunc status=none
    make_ext4 "$out/sda.raw" 1 255 root "$tree"
    # extlinux writes the block numbers of its second stage into the boot sector, for which it wants a mounted filesystem. It cannot read
    # files with holes either, and mke2fs leaves out every block of zeros.
    # shellcheck disable=SC2016 # for the inner shell
    logged unshare --mount sh -ec 'mount -o loop,offset=1048576 "$0" "$1"
        rm "$1"/boot/vmlinuz-* "$1"/boot/initrd.img-*
        cp --sparse=never "$2"/boot/vmlinuz-* "$2"/boot/initrd.img-* "$1/boot/"
        extlinux --install "$1/boot/extlinux"' \
        "$out/sda.raw" "$out/work/mnt" "$tree"
    describe bios ide 256 52:54:00:4b:56:07 "$v" "busybox userland, extlinux, root=/dev/sda1"
}
