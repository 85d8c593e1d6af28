# What every guest needs: disks, filesystems, boot loaders, guest.json. Sourced by make-guest, which sets $name (the guest),
# $out (the folder that it grows in) and $cache. Nothing here mounts a disk: filesystems are written straight into the image.

password=kvmport # of root in every guest, and of the LUKS disk

say() { echo "make-guest: $name: $*" >&2; }

# logged COMMAND...: runs a talkative command, whose words matter only when it fails.
logged() {
    "$@" >"$out/work/log" 2>&1 || {
        say "failed: $*"
        tail -40 "$out/work/log" >&2
        return 1
    }
}

# A stable UUID for one part of this guest, so that two builds have the same names.
uuid_for() { uuidgen --sha1 --namespace @dns --name "$1.$name.kvmport.example"; }

# make_disk DISK MIB: makes a sparse disk; the sfdisk script comes on standard input.
make_disk() {
    truncate -s "$2M" "$1"
    sfdisk -q "$1"
}

# make_ext4 DISK START_MIB SIZE_MIB LABEL [TREE]: an ext4 in the disk at this place, filled from TREE.
make_ext4() {
    mke2fs -q -F -t ext4 -L "$4" -U "$(uuid_for "$4")" ${5+-d "$5"} -E "offset=$(($2 << 20)),lazy_itable_init=0" \
        "$1" "$3M" 2>&1 | grep -v 'contains a' || true
    debugfs -R "stat <2>" "$1?offset=$(($2 << 20))" 2>/dev/null | grep Inode >/dev/null
}

# make_esp DISK START_MIB SIZE_MIB: an empty FAT in the disk at this place; files get there with esp_copy.
make_esp() {
    mkfs.vfat -F 32 -s 1 -n ESP -i "$(uuid_for esp | cut -c1-8)" --offset $(($2 * 2048)) "$1" $(($3 * 1024)) 2>&1 >/dev/null |
        grep -v 'block count mismatch' >&2 || true
}

# esp_copy DISK START_MIB SOURCE TARGET: copies a file onto the FAT, making the folders above it.
esp_copy() {
    local at="$1@@$(($2 << 20))" dir="" part
    local -a parts
    IFS=/ read -ra parts <<<"$(dirname "$4")"
    for part in "${parts[@]}"; do
        dir=$dir/$part
        mdir -i "$at" "::$dir" >/dev/null 2>&1 || mmd -i "$at" "::$dir"
    done
    mcopy -o -i "$at" "$3" "::/$4"
}

# fat_uuid: the name that the kernel gives to the filesystem of make_esp.
fat_uuid() { uuid_for esp | cut -c1-8 | tr a-f A-F | sed 's/^..../&-/'; }

# make_swap DISK START_MIB SIZE_MIB
make_swap() {
    truncate -s "$3M" "$out/work/swap"
    mkswap -q -U "$(uuid_for swap)" "$out/work/swap"
    place "$out/work/swap" "$1" "$2"
}

# place FILE DISK START_MIB: puts a filesystem made elsewhere into the disk, keeping its holes; removes FILE.
place() {
    dd if="$1" of="$2" bs=1M seek="$3" conv=notrunc,sparse status=none
    rm "$1"
}

# grub_bios DISK FS_MODULE TREE: GRUB for BIOS as grub-install leaves it: boot.img in the MBR, the core image behind it and
# the modules in /boot/grub of the tree. The core image looks for /boot/grub on the first partition of the disk that it came from.
grub_bios() {
    local images=/usr/lib/grub/i386-pc core=$out/work/core.img
    mkdir -p "$3/boot/grub/i386-pc"
    cp "$images"/*.mod "$images"/*.lst "$3/boot/grub/i386-pc/"
    grub-mkimage -d $images -O i386-pc -o "$core" -p '(,msdos1)/boot/grub' biosdisk part_msdos "$2"
    cp "$core" $images/boot.img "$3/boot/grub/i386-pc/"
    [ "$(stat -c %s "$core")" -le $((2047 * 512)) ]
    dd if=$images/boot.img of="$1" bs=440 count=1 conv=notrunc status=none
    dd if="$core" of="$1" bs=512 seek=1 conv=notrunc status=none
    grub-editenv "$3/boot/grub/grubenv" create
}

# old_drivers_only INITRAMFS: it must drive old disks and know no virtio, else the guest proves nothing.
old_drivers_only() {
    local list
    list=$(lsinitramfs "$1")
    if [[ $list != */sd_mod.ko* || $list =~ virtio_(blk|pci|scsi) ]]; then
        say "wrong drivers in $1"
        return 1
    fi
}

# describe FIRMWARE CONTROLLER MEMORY_MIB MAC KERNELS NOTES: writes guest.json. KERNELS: versions, separated by blanks.
describe() {
    local disks kernels
    disks=$(cd "$out" && printf '"%s", ' sd?.raw)
    kernels=$(printf '"%s", ' $5)
    cat >"$out/guest.json" <<JSON
{
  "name": "$name",
  "firmware": "$1",
  "disks": [${disks%, }],
  "controller": "$2",
  "memory_mib": $3,
  "nics": [{"mac": "$4", "model": "e1000"}],
  "login": "login: *\$",
  "kernels": [${kernels%, }],
  "notes": "$6"
}
JSON
}
