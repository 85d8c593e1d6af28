# Guests with a plain Debian 12 userland under systemd: reference, uefi-lvm, dracut-xfs, ssh. Each starts from one base system, made once
# and kept as CACHE_DIR/base.tar.zst with the packages in its apt cache that only some guests install. Sourced by make-guest.

base_packages=dbus,zstd,linux-image-amd64 # beside what debootstrap installs
extra_packages="grub-pc grub-efi-amd64 grub-efi-amd64-signed lvm2 dracut xfsprogs openssh-server"

# The apt mirror of the host, one line of sources.list a repository.
mirror_lines() {
    apt-get indextargets --format '$(ORIGIN) deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        sed -n 's/^Debian \(deb .* bookworm.* main\)$/\1/p' | sort -u
}

# Makes base.tar.zst, unless one of these very scripts is there. The packages of a plain debootstrap, without
# documentation and locales.
base_system() {
    local tar=$cache/base.tar.zst digest began=$SECONDS mirror
    exec 8>"$cache/base.lock"
    flock 8
    mirror=$(mirror_lines)
    [ -n "$mirror" ] || mirror='deb http://deb.debian.org/debian bookworm main'
    digest=$({ declare -f base_system && echo "$base_packages $extra_packages"; } | sha256sum | cut -d' ' -f1)
    if [ "$(cat "$cache/base.stamp" 2>/dev/null)" != "$digest" ] || [ ! -f "$tar" ]; then
        # shellcheck disable=SC2016 # "$1" is for the hooks' own shell
        INITRD=No mmdebstrap --mode=root --variant=debootstrap --skip=cleanup/apt \
            --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' \
            --dpkgopt='path-include=/usr/share/doc/*/copyright' --dpkgopt='path-exclude=/usr/share/man/*' \
            --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
            --aptopt='APT::Install-Recommends "false"' --include=$base_packages \
            --customize-hook='chroot "$1" apt-get clean' \
            --customize-hook="for p in $extra_packages; do"' chroot "$1" apt-get -qy --download-only install $p; done' \
            bookworm - - <<<"$mirror" 2>"$cache/base.log" 8>&- 9>&- | zstd -q -1 -T0 -f -o "$tar.partial" ||
            { grep -v '^Get:' "$cache/base.log" | tail -20 >&2; return 1; }
        mv "$tar.partial" "$tar"
        echo "$digest" >"$cache/base.stamp"
        say "base system made in $((SECONDS - began)) s, $(du -m "$tar" | cut -f1) MiB"
    fi
    flock -u 8
}

# in_root COMMAND...: runs a command in the guest's root, with /proc and nothing else of the host.
in_root() {
    unshare --mount sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$root" env -i \
        PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C TERM=dumb DEBIAN_FRONTEND=noninteractive "$@"
}

install_packages() { logged in_root env INITRD=No apt-get -qqy --no-download install "$@"; }

# debian_root PACKAGE...: unpacks the base system to $root, adds packages; sets $kernel.
debian_root() {
    root=$out/work/root
    base_system
    mkdir -p "$root"
    tar --zstd -xf "$cache/base.tar.zst" -C "$root" --numeric-owner --xattrs --xattrs-include='*'
    kernel=$(ls "$root/lib/modules")
    install_packages "$@"
    echo "$name" >"$root/etc/hostname"
    printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s\n' "$name" >"$root/etc/hosts"
    uuid_for machine-id | tr -d - >"$root/etc/machine-id"
    in_root usermod -p "$(openssl passwd -6 -salt kvmport $password)" root
    printf 'auto lo\niface lo inet loopback\n' >"$root/etc/network/interfaces"
}

# The banner before "login:" shows the addresses, so that a console alone proves that the network configuration took hold.
banner() { printf 'Debian GNU/Linux 12 \\n \\l\nnetwork: %s \\4{%s}\n\n' "$1" "$1" >"$root/etc/issue"; }

# Removes what only the build needed.
debian_finish() {
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/{archives/*.deb,*.bin} "$root"/var/log/{apt/*,dpkg.log,bootstrap.log,alternatives.log}
    mv "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/no-documentation"
    sed -i /unsafe-io/d "$root/etc/dpkg/dpkg.cfg.d/no-documentation"
    rm -f "$root/etc/resolv.conf" "$root"/etc/apt/apt.conf.d/99mmdebstrap
    [ "$(in_root dpkg --audit | wc -l)" = 0 ]
}

# initramfs MODULE...: an initramfs of initramfs-tools with these drivers and no virtio.
initramfs() {
    sed -i 's/^MODULES=.*/MODULES=list/' "$root/etc/initramfs-tools/initramfs.conf"
    echo RESUME=none >"$root/etc/initramfs-tools/conf.d/resume"
    printf '%s\n' "$@" >>"$root/etc/initramfs-tools/modules"
    logged in_root update-initramfs -c -k "$kernel"
    old_drivers_only "$root/boot/initrd.img-$kernel"
}

# initramfs_most: the initramfs that initramfs-tools makes by default (MODULES=most), from a kernel package that lacks the virtio drivers
# while it is made.
initramfs_most() {
    local away=$out/work/virtio file
    while read -r file; do
        mkdir -p "$away/$(dirname "$file")"
        mv "$root/lib/modules/$file" "$away/$file"
    done < <(cd "$root/lib/modules" && find . -name '*virtio*.ko')
    logged in_root depmod "$kernel"
    echo RESUME=none >"$root/etc/initramfs-tools/conf.d/resume"
    logged in_root update-initramfs -c -k "$kernel"
    cp -a "$away/." "$root/lib/modules/"
    logged in_root depmod "$kernel"
    old_drivers_only "$root/boot/initrd.img-$kernel"
}

# default_grub CMDLINE: /etc/default/grub as an administrator left it who did not want UUIDs.
default_grub() {
    cat >"$root/etc/default/grub" <<END
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=\`lsb_release -i -s 2> /dev/null || echo Debian\`
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="$1"
GRUB_DISABLE_LINUX_UUID=true
GRUB_DISABLE_OS_PROBER=true
GRUB_TERMINAL=console
END
}

# grub_cfg FS_MODULE PARTITION BOOT_PATH ROOT CMDLINE: the grub.cfg that grub-mkconfig makes of default_grub. FS_MODULE, PARTITION ('msdos1')
# and BOOT_PATH ('/boot', or '' when /boot is a filesystem of its own) say where GRUB finds the kernel; ROOT is the root device.
grub_cfg() {
    local entry="        insmod gzio
        insmod part_${2%[0-9]}
        insmod $1
        set root='hd0,$2'
        echo    'Loading Linux $kernel ...'
        linux   $3/vmlinuz-$kernel root=$4 ro"
    local initrd="        echo    'Loading initial ramdisk ...'
        initrd  $3/initrd.img-$kernel"
    cat <<END
#
# DO NOT EDIT THIS FILE
#
# It is automatically generated by grub-mkconfig using templates
# from /etc/grub.d and settings from /etc/default/grub
#

### BEGIN /etc/grub.d/00_header ###
if [ -s \$prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "\${next_entry}" ] ; then
   set default="\${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="0"
fi
terminal_input console
terminal_output console
if [ "\${recordfail}" = 1 ] ; then
  set timeout=30
else
  set timeout_style=menu
  set timeout=1
fi
### END /etc/grub.d/00_header ###

### BEGIN /etc/grub.d/10_linux ###
function gfxmode {
        set gfxpayload="\${1}"
}
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class gnu --class os \$menuentry_id_option 'gnulinux-simple-$4' {
$entry $5
$initrd
}
submenu 'Advanced options for Debian GNU/Linux' \$menuentry_id_option 'gnulinux-advanced-$4' {
        menuentry 'Debian GNU/Linux, with Linux $kernel' --class debian --class gnu-linux --class gnu --class os {
$entry $5
$initrd
        }
        menuentry 'Debian GNU/Linux, with Linux $kernel (recovery mode)' --class debian --class gnu-linux --class gnu --class os {
${entry} single $5
$initrd
        }
}
### END /etc/grub.d/10_linux ###

### BEGIN /etc/grub.d/41_custom ###
if [ -f  \${config_directory}/custom.cfg ]; then
  source \${config_directory}/custom.cfg
fi
### END /etc/grub.d/41_custom ###
END
}

# BIOS, MBR, GRUB, everything by /dev/sdaN, no serial console.
guest_reference() {
    local mac=52:54:00:4b:56:02
    debian_root grub-pc
    cat >"$root/etc/fstab" <<'END'
# <file system> <mount point> <type> <options> <dump> <pass>
/dev/sda1 /    ext4 errors=remount-ro 0 1
/dev/sda2 none swap sw                0 0
END
    cat >>"$root/etc/network/interfaces" <<'END'

allow-hotplug ens3
iface ens3 inet static
    address 192.168.77.20/24
    gateway 192.168.77.1
END
    banner ens3
    initramfs_most
    default_grub resume=/dev/sda2
    make_disk "$out/sda.raw" 2048 <<<'label: dos
        start=2048, size=3930112, type=83, bootable
        type=82'
    grub_bios "$out/sda.raw" ext2 "$root"
    grub_cfg ext2 msdos1 /boot /dev/sda1 resume=/dev/sda2 >"$root/boot/grub/grub.cfg"
    debian_finish
    make_ext4 "$out/sda.raw" 1 1919 root "$root"
    make_swap "$out/sda.raw" 1920 128
    describe bios ide 512 $mac "$kernel" "static 192.168.77.20 on ens3, resume=/dev/sda2, login on tty1 only"
}

# A guest of KVM already, to be cloned: everything by UUID, virtio in the initramfs, DHCP, SSH host keys.
guest_ssh() {
    local mac=52:54:00:4b:56:09
    debian_root grub-pc openssh-server
    echo "UUID=$(uuid_for root) / ext4 errors=remount-ro 0 1" >"$root/etc/fstab"
    printf '\nallow-hotplug eth0\niface eth0 inet dhcp\n' >>"$root/etc/network/interfaces"
    echo RESUME=none >"$root/etc/initramfs-tools/conf.d/resume"
    logged in_root update-initramfs -c -k "$kernel"
    default_grub net.ifnames=0
    make_disk "$out/sda.raw" 2048 <<<'label: dos
        start=2048, type=83, bootable'
    grub_bios "$out/sda.raw" ext2 "$root"
    grub_cfg ext2 msdos1 /boot "UUID=$(uuid_for root)" net.ifnames=0 >"$root/boot/grub/grub.cfg"
    debian_finish
    make_ext4 "$out/sda.raw" 1 2047 root "$root"
    describe bios virtio 512 $mac "$kernel" "a KVM guest: everything by UUID, virtio in the initramfs, eth0 by DHCP, SSH host keys"
}

# make_lvm DISK START_MIB SIZE_MIB ROOT_MIB SWAP_MIB TREE: a volume group vg0 with root (ext4, filled from TREE) and swap. LVM writes its
# own metadata; no volume is ever activated, the filesystems are put where the metadata says.
make_lvm() {
    local disk=$1 start=$2 loop config pe_start
    loop=$(losetup --find --show --offset $((start << 20)) --sizelimit $(($3 << 20)) "$disk")
    config="devices { scan = \"/dev\" filter = [ \"a|^$loop\$|\", \"r|.*|\" ] global_filter = [ \"a|.*|\" ] use_devicesfile = 0
        obtain_device_list_from_udev = 0 external_device_info_source = \"none\" }
        backup { backup = 0 archive = 0 } global { locking_dir = \"$out/work\" event_activation = 0 }"
    lvm_() { lvm "$1" --config "$config" --driverloaded n -qq "${@:2}" >>"$out/work/lvm.log" 2>&1; }
    if ! { lvm_ pvcreate "$loop" && lvm_ vgcreate vg0 "$loop" && lvm_ lvcreate -an -Zn -Wn -n root -L "$4M" vg0 &&
        lvm_ lvcreate -an -Zn -Wn -n swap -L "$5M" vg0 &&
        pe_start=$(lvm pvs --config "$config" --driverloaded n --noheadings --nosuffix --units m -o pe_start "$loop" 2>/dev/null); }; then
        losetup --detach "$loop"
        cat "$out/work/lvm.log" >&2
        return 1
    fi
    losetup --detach "$loop"
    # The first volume starts at the first extent, the second where the first ends.
    pe_start=${pe_start//[!0-9.]/}
    make_ext4 "$disk" $((start + ${pe_start%.*})) "$4" root "$6"
    make_swap "$disk" $((start + ${pe_start%.*} + $4)) "$5"
}

# UEFI, GPT, no fallback loader on the ESP, /boot on its own, root in LVM, systemd-networkd.
guest_uefi_lvm() {
    local mac=52:54:00:4b:56:03 boot=$out/work/boot esp_guid
    local signed=/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed
    debian_root grub-efi-amd64 grub-efi-amd64-signed lvm2
    cat >"$root/etc/fstab" <<'END'
/dev/mapper/vg0-root /         ext4 errors=remount-ro 0 1
/dev/sda2            /boot     ext4 defaults          0 2
/dev/sda1            /boot/efi vfat umask=0077        0 1
/dev/mapper/vg0-swap none      swap sw                0 0
END
    cat >"$root/etc/systemd/network/10-lan.network" <<'END'
[Match]
Name=enp0s3

[Network]
Address=192.168.77.30/24
Gateway=192.168.77.1
ConfigureWithoutCarrier=yes
END
    in_root systemctl -q enable systemd-networkd
    banner enp0s3
    initramfs ahci sd_mod ext4 dm_mod
    default_grub 'console=tty0 console=ttyS0,115200'
    mkdir -p "$root/boot/grub/x86_64-efi" "$root/boot/efi"
    cp /usr/lib/grub/x86_64-efi/*.{mod,lst} "$root/boot/grub/x86_64-efi/"
    grub-editenv "$root/boot/grub/grubenv" create
    grub_cfg ext2 gpt2 '' /dev/mapper/vg0-root 'console=tty0 console=ttyS0,115200' >"$root/boot/grub/grub.cfg"
    esp_guid=$(uuid_for esp)
    make_disk "$out/sda.raw" 2048 <<END
label: gpt
start=2048, size=131072, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=$esp_guid
size=524288, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4
type=E6D6D379-F507-44C2-A23C-238F2A3DF928
END
    make_esp "$out/sda.raw" 1 64
    printf 'search.fs_uuid %s root \nset prefix=($root)/grub\nconfigfile $prefix/grub.cfg\n' "$(uuid_for boot)" >"$out/work/grub.cfg"
    esp_copy "$out/sda.raw" 1 "$root$signed" EFI/debian/grubx64.efi
    esp_copy "$out/sda.raw" 1 "$out/work/grub.cfg" EFI/debian/grub.cfg
    python3 "$here/nvram.py" "$out/nvram.fd" 1 2048 131072 "$esp_guid" '\EFI\debian\grubx64.efi' debian
    debian_finish
    mkdir "$boot"
    mv "$root"/boot/* "$boot/"
    mkdir "$boot/efi.new" && mv -T "$boot/efi.new" "$boot/efi"
    make_ext4 "$out/sda.raw" 65 256 boot "$boot"
    make_lvm "$out/sda.raw" 321 1726 1588 128 "$root"
    describe uefi sata 512 $mac "$kernel" "LVM vg0/root, /boot on sda2, static 192.168.77.30 on enp0s3 by systemd-networkd, nvram.fd boots EFI/debian"
}

# BIOS, GRUB, XFS, dracut, interface named by a persistent-net rule.
guest_dracut_xfs() {
    local mac=52:54:00:4b:56:04
    debian_root dracut grub-pc xfsprogs
    echo '/dev/sda1 / xfs defaults 0 0' >"$root/etc/fstab"
    cat >"$root/etc/udev/rules.d/70-persistent-net.rules" <<END
# PCI device 0x8086:0x100e (e1000)
SUBSYSTEM=="net", ACTION=="add", DRIVERS=="e1000", ATTR{address}=="$mac", ATTR{dev_id}=="0x0", ATTR{type}=="1", NAME="eth0"
END
    cat >>"$root/etc/network/interfaces" <<'END'

allow-hotplug eth0
iface eth0 inet static
    address 192.168.77.40/24
    gateway 192.168.77.1
END
    banner eth0
    printf 'hostonly="yes"\nhostonly_cmdline="no"\n' >"$root/etc/dracut.conf.d/10-machine.conf"
    # What host-only mode finds on the old machine must be said here: its disk's controller, and that it is no guest of QEMU. Host-only mode wants
    # /sys, /run and /dev to be mounts, but those of this host would tell it about the wrong machine.
    logged in_root sh -c 'mount -t tmpfs tmpfs /sys && mount -t tmpfs tmpfs /run && mount --bind /dev /dev && exec dracut "$@"' dracut \
        --quiet --force --hostonly --kver "$kernel" --drivers "ata_piix ata_generic ahci sd_mod xfs crc32c_generic" --filesystems xfs \
        --omit "qemu qemu-net virtiofs" "/boot/initrd.img-$kernel"
    old_drivers_only "$root/boot/initrd.img-$kernel"
    default_grub 'console=tty0 console=ttyS0,115200'
    make_disk "$out/sda.raw" 2048 <<<'label: dos
        start=2048, type=83, bootable'
    grub_bios "$out/sda.raw" xfs "$root"
    grub_cfg xfs msdos1 /boot /dev/sda1 'console=tty0 console=ttyS0,115200' >"$root/boot/grub/grub.cfg"
    debian_finish
    python3 "$here/xfs-proto.py" "$root" >"$out/work/proto"
    truncate -s 2047M "$out/work/xfs"
    mkfs.xfs -q -L root -m "uuid=$(uuid_for root)" -p "$out/work/proto" "$out/work/xfs"
    place "$out/work/xfs" "$out/sda.raw" 1
    describe bios sata 512 $mac "$kernel" "dracut host-only initramfs, XFS, eth0 by a persistent-net rule for e1000, static 192.168.77.40"
}
