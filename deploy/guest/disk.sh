# Sourced by the build scripts: makes a bootable disk from folders, with plain
# files only: no loop device, no mount. BIOS boots by syslinux, UEFI by
# systemd-boot, unless a guest has its own way; all take the kernel and the initrd
# from the first partition.
# shellcheck shell=bash

readonly sector=512 boot_start=2048

# make_disk IMAGE SIZE_MIB BOOT_MIB BOOT_DIR ROOT: a raw image whose second
# partition is ext4 with what ROOT (a folder or a tar) holds.
make_disk() {
	local image=$1 size=$2 boot=$3 boot_dir=$4 root=$5
	local boot_sectors=$((boot * 1024 * 1024 / sector))
	local root_start=$((boot_start + boot_sectors))
	rm -f "$image"
	truncate -s "${size}M" "$image"
	partition "$image" "$boot_sectors" "$root_start"
	make_boot "$image" "$((boot * 1024))" "$boot_dir"
	make_root "$image" "$root_start" "$((size * 1024 - root_start * sector / 1024))" "$root"
}

partition() { # IMAGE BOOT_SECTORS ROOT_START
	sfdisk --quiet "$1" <<-EOT
		label: dos
		label-id: 0x6f726c70
		start=$boot_start, size=$2, type=ef, bootable
		start=$3, type=83
	EOT
	dd if=/usr/lib/syslinux/mbr/mbr.bin of="$1" bs=440 count=1 conv=notrunc status=none
}

make_boot() { # IMAGE KIB DIR
	local part=$1.boot
	rm -f "$part"
	mkfs.vfat -C --invariant -n ORLOP-BOOT -h "$boot_start" "$part" "$2" >/dev/null
	(cd "$3" && find . -mindepth 1 -type d | LC_ALL=C sort | while read -r dir; do
		mmd -i "$part" "::${dir#.}"
	done)
	(cd "$3" && find . -type f | LC_ALL=C sort | while read -r file; do
		mcopy -m -i "$part" "$file" "::${file#.}"
	done)
	syslinux --install "$part"
	dd if="$part" of="$1" bs=1M seek="$((boot_start * sector / 1048576))" conv=sparse,notrunc status=none
	rm "$part"
}

make_root() { # IMAGE START KIB SOURCE
	local uuid=6f726c6f-7000-4000-8000-000000000001
	E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -F -t ext4 -L orlop-root -U "$uuid" \
		-E "offset=$(($2 * sector)),hash_seed=$uuid,lazy_itable_init=1" -m 1 -d "$4" "$1" "${3}k" 2>&1 |
		grep -v '^$' || true
}

# write_boot_menu DIR OPTIONS: one entry that boots at once, for both ways.
write_boot_menu() {
	mkdir -p "$1/EFI/BOOT" "$1/loader/entries"
	cp /usr/lib/systemd/boot/efi/systemd-bootx64.efi "$1/EFI/BOOT/BOOTX64.EFI"
	printf 'timeout 0\ndefault guest.conf\n' >"$1/loader/loader.conf"
	printf 'title guest\nlinux /vmlinuz\ninitrd /initrd\noptions %s\n' "$2" >"$1/loader/entries/guest.conf"
	printf 'DEFAULT guest\nPROMPT 0\nTIMEOUT 0\nLABEL guest\n  LINUX /vmlinuz\n  INITRD /initrd\n  APPEND %s\n' "$2" >"$1/syslinux.cfg"
}

# publish RAW OUTPUT: the image as qcow2, in place in one step.
publish() {
	qemu-img convert -f raw -O qcow2 -o lazy_refcounts=off "${@:3}" "$1" "$2.new"
	mv "$2.new" "$2"
}
