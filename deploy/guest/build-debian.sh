#!/usr/bin/env bash
# Builds the full Debian 12 guest, for tests that need the real things: systemd,
# cloud-init, sshd, nginx, netplan and the guest agent. Takes minutes.
#
#   build-debian.sh [--force] [OUTPUT [CACHE]]
#
# OUTPUT defaults to $ORLOP_HOME/guest/debian.qcow2, CACHE (downloads) to
# $ORLOP_HOME/cache/guest. Nothing is done when OUTPUT is newer than the
# scripts. It needs root (files of several users), but no loop device.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=packages.sh
. "$(dirname "${BASH_SOURCE[0]}")/packages.sh"
# shellcheck source-path=SCRIPTDIR source=disk.sh
. "$here/disk.sh"

export SOURCE_DATE_EPOCH=1686355200
readonly disk_mib=2048 boot_mib=96
readonly options='root=LABEL=orlop-root ro console=tty1 console=ttyS0,115200 quiet'
# What the initrd has, so that it is small: whatever a disk may hang on.
readonly drivers='virtio_pci virtio_scsi virtio_blk ahci sd_mod sr_mod nvme ext4'
# The kernel for all machines: the one for clouds knows neither SATA nor e1000.
readonly packages=linux-image-amd64,systemd-sysv,udev,dbus,kmod,initramfs-tools,zstd,\
cloud-init,cloud-guest-utils,qemu-guest-agent,openssh-server,nginx-light,netplan.io,\
systemd-resolved,iproute2,iputils-ping,sudo,curl,ca-certificates,e2fsprogs,fdisk,util-linux,util-linux-extra,bash-completion,less,vim-tiny

check_tools() {
	local tool
	for tool in apt-get mmdebstrap mcopy mkfs.vfat sfdisk mke2fs syslinux qemu-img; do
		command -v "$tool" >/dev/null || fail "$tool is missing: run make setup"
	done
	[ "$(dpkg --print-architecture)" = amd64 ] || fail "the guests are built on amd64 only"
}

# customize prints the script that runs on the host with the new root as $1.
customize() {
	cat <<-'EOT'
		set -e
		rm -f "$1"/etc/ssh/ssh_host_*
		: >"$1/etc/machine-id"
		mkdir -p "$1/etc/cloud/cloud.cfg.d" "$1/etc/systemd/system"
		# No locales package here, whose absence cloud-init would call an error.
		printf 'datasource_list: [NoCloud, None]\nlocale: false\napt_preserve_sources_list: true\n' \
			>"$1/etc/cloud/cloud.cfg.d/90-orlop.cfg"
		printf 'LABEL=orlop-root / ext4 errors=remount-ro,noatime 0 1\n' >"$1/etc/fstab"
		printf 'debian\n' >"$1/etc/hostname"
		printf 'MODULES=list\n' >"$1/etc/initramfs-tools/conf.d/drivers"
		printf '%s\n' $drivers >>"$1/etc/initramfs-tools/modules"
		chroot "$1" update-initramfs -u
		ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"
		chroot "$1" systemctl --quiet enable systemd-networkd systemd-resolved nginx ssh serial-getty@ttyS0.service
	EOT
}

# bootstrap TAR CACHE: the root file system. The sources that the guest itself
# will have are those of this machine.
bootstrap() {
	local hook=$work/customize
	customize >"$hook"
	mkdir -p "$2/apt"
	write_sources "$work/debian.sources"
	say "installing Debian 12 into a folder (takes minutes)"
	mmdebstrap --quiet --variant=minbase --format=tar --components=main \
		--include="$packages" --aptopt='APT::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
		--customize-hook="drivers='$drivers' sh $hook \"\$1\"" \
		"$suite" "$1" "$work/debian.sources"
}

# sign_boot DIR CACHE OPTIONS: UEFI boots by what Microsoft's and Debian's keys
# have signed, so that Secure Boot lets it.
sign_boot() {
	local debs deb
	refresh_daily "$2"
	debs=$(fetch "$2" shim-signed grub-efi-amd64-signed) || fail "can't download Debian packages"
	for deb in $debs; do
		dpkg-deb --extract "$deb" "$work/signed"
	done
	mkdir -p "$1/EFI/debian"
	cp "$work/signed/usr/lib/shim/shimx64.efi.signed" "$1/EFI/BOOT/BOOTX64.EFI"
	cp "$work/signed/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" "$1/EFI/BOOT/grubx64.efi"
	printf 'set timeout=0\nmenuentry guest {\n  linux /vmlinuz %s\n  initrd /initrd\n}\n' "$3" >"$1/EFI/debian/grub.cfg"
}

build() { # OUTPUT CACHE; sets work, which the exit trap removes
	work=$(mktemp -d "$2/build.XXXXXX")
	mkdir -p "$work/root" "$work/boot"
	bootstrap "$work/root.tar" "$2"
	say "making the disk"
	tar -x -C "$work/root" --exclude='./dev/*' -f "$work/root.tar"
	cp "$work"/root/boot/vmlinuz-* "$work/boot/vmlinuz"
	cp "$work"/root/boot/initrd.img-* "$work/boot/initrd"
	rm "$work"/root/boot/vmlinuz-* "$work"/root/boot/initrd.img-* "$work/root.tar"
	write_boot_menu "$work/boot" "$options"
	sign_boot "$work/boot" "$2" "$options"
	make_disk "$work/disk.raw" "$disk_mib" "$boot_mib" "$work/boot" "$work/root"
	publish "$work/disk.raw" "$1" -c -o compression_type=zstd
}

main() {
	local force='' output cache
	if [ "${1:-}" = --force ]; then
		force=yes
		shift
	fi
	output=${1:-$(home)/guest/debian.qcow2}
	cache=${2:-$(home)/cache/guest}
	mkdir -p "$(dirname "$output")" "$cache"
	output=$(realpath -m "$output")
	cache=$(realpath "$cache")
	if [ -z "$force" ] && newer "$output" "$here"/{build-debian.sh,packages.sh,disk.sh}; then
		say "$output is up to date"
		return
	fi
	check_tools
	[ "$(id -u)" -eq 0 ] || fail "the Debian guest has files of several users: run this as root"
	work=''
	trap '[ -z "$work" ] || rm -rf "$work"' EXIT
	build "$output" "$cache"
	say "$output: $(du -h --apparent-size "$output" | cut -f1), $disk_mib MiB virtual"
}

main "$@"; exit
