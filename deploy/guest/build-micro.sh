#!/usr/bin/env bash
# Builds the micro guest: a few Debian packages, busybox as its init, and a
# small program that reads a NoCloud seed. It boots in seconds under plain
# emulation, and takes a user's cloud-config like a large image.
#
#   build-micro.sh [--force] [OUTPUT [CACHE]]
#
# OUTPUT defaults to $ORLOP_HOME/guest/micro.qcow2, CACHE (downloads) to
# $ORLOP_HOME/cache/guest. Nothing is done when OUTPUT is newer than what it is
# made of. Neither root nor a loop device is needed.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=packages.sh
. "$(dirname "${BASH_SOURCE[0]}")/packages.sh"
# shellcheck source-path=SCRIPTDIR source=disk.sh
. "$here/disk.sh"

# All times in the image; the day that Debian 12 was released.
export SOURCE_DATE_EPOCH=1686355200
# no_timer_check: on a busy host the kernel's test of the emulated timer may fail,
# and it would stop there.
readonly disk_mib=300 boot_mib=32
readonly options='root=LABEL=orlop-root console=tty1 console=ttyS0,115200 quiet no_timer_check scsi_mod.scan=sync panic=10'

check_tools() {
	local tool
	for tool in apt-get dpkg-deb go cpio lz4 depmod mcopy mkfs.vfat sfdisk mke2fs syslinux qemu-img unshare; do
		command -v "$tool" >/dev/null || fail "$tool is missing: run make setup"
	done
	[ "$(dpkg --print-architecture)" = amd64 ] || fail "the guests are built on amd64 only"
}

# package_names prints what the guest is made of, without the kernel.
package_names() { awk '!/^#/ && NF { print $1 }' "$here/micro/packages.txt"; }

fetch_all() { # CACHE; sets debs and kernel_deb
	local cache=$1 names kernel
	mapfile -t names < <(package_names)
	refresh_daily "$cache"
	kernel=$(private_apt "$cache" apt-cache depends linux-image-cloud-amd64 |
		awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }')
	[ -n "$kernel" ] || fail "Debian's package lists name no cloud kernel"
	# A list may be older than the archive, which drops what it replaces.
	if ! debs=$(fetch "$cache" "$kernel" "${names[@]}"); then
		refresh "$cache" || fail "can't read Debian's package lists"
		debs=$(fetch "$cache" "$kernel" "${names[@]}") || fail "can't download Debian packages"
	fi
	kernel_deb=$(head -n1 <<<"$debs")
	debs=$(tail -n +2 <<<"$debs")
}

# unpack DEB ROOT PATH...: only the paths named, or all; without what nobody
# reads in a guest. /bin, /sbin and /lib are links into /usr, as on Debian.
unpack() {
	local deb=$1 root=$2 path paths=()
	shift 2
	for path in "$@"; do paths+=(".$path"); done
	[ $# -eq 0 ] || paths+=(./usr/share/doc)
	dpkg-deb --fsys-tarfile "$deb" | tar -x -p --no-same-owner --keep-directory-symlink -C "$root" \
		--wildcards --exclude='./usr/share/man*' --exclude='./usr/share/locale*' --exclude='./usr/share/lintian*' \
		--exclude='./usr/share/doc/*/*.gz' --exclude='./usr/share/doc/*/examples*' --exclude='./usr/share/bug*' \
		--exclude='./usr/lib/x86_64-linux-gnu/gconv*' --exclude='./usr/lib/locale*' --exclude='./usr/share/gdb*' \
		--exclude='./etc/init.d/*' --exclude='./lib/systemd*' --exclude='./usr/share/bash-completion*' \
		"${paths[@]}" || fail "$(basename "$deb") has not all of: $*"
}

make_root_dir() { # ROOT; reads debs
	local root=$1 link deb name rest
	mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{dev,proc,sys,run,tmp,root,home,mnt,etc/{dropbear,sudoers.d},var/{lib,log,tmp,www}}
	for link in bin sbin lib lib64; do ln -s "usr/$link" "$root/$link"; done
	# The order of the list is the order of the files.
	while read -r name rest; do
		read -r deb <&3
		# shellcheck disable=SC2086 # the rest of the line is a list of paths
		unpack "$deb" "$root" $rest
	done < <(awk '!/^#/ && NF' "$here/micro/packages.txt") 3<<<"$debs"
	link_busybox "$root"
	# Neither the owner nor the umask of the working copy may get into the image.
	tar -c --mode=u=rwX,go=rX -C "$here/micro/root" . | tar -x -p --no-same-owner -C "$root"
	ln -sf ../proc/self/mounts "$root/etc/mtab"
	chmod 440 "$root/etc/sudoers"
	chmod 600 "$root/etc/shadow"
	chmod 700 "$root/root"
	chmod 1777 "$root/tmp" "$root/var/tmp"
	: >"$root/etc/resolv.conf"
}

# link_busybox ROOT: busybox answers to every name that no package has taken.
link_busybox() {
	local applet
	for applet in $("$1/bin/busybox" --list); do
		case $applet in busybox | dpkg | dpkg-deb | rpm | rpm2cpio) continue ;; esac
		[ -e "$1/usr/bin/$applet" ] || [ -e "$1/usr/sbin/$applet" ] || ln -s busybox "$1/usr/bin/$applet"
	done
	# The guest agent looks for hwclock there, too.
	for applet in init poweroff reboot halt ip hwclock; do
		ln -sf ../bin/busybox "$1/usr/sbin/$applet"
	done
}

# check_libraries ROOT: every program finds its libraries inside. The guest's
# own loader is asked; about a static program it has nothing to say.
check_libraries() {
	local root=$1 file lost
	while read -r file; do
		lost=$(needs "$root" "$file" | awk -v root="$root" '$2 == "=>" && index($3, root) != 1 { print $1 }')
		[ -z "$lost" ] || fail "${file#"$root"} needs ${lost//$'\n'/ }: add the package to micro/packages.txt"
	done < <(find "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib" "$root/usr/libexec" -type f \
		\( -perm -100 -o -name '*.so*' \) -size +8k)
}

needs() { # ROOT FILE
	local loader=$1/usr/lib64/ld-linux-x86-64.so.2 code=0
	"$loader" --verify "$2" >/dev/null 2>&1 || code=$?
	# 1 is "not dynamic"; 2 is a library, or one built for another loader.
	[ "$code" -ne 1 ] || return 0
	"$loader" --inhibit-cache --list --library-path \
		"$1/usr/lib/x86_64-linux-gnu:$1/usr/libexec/sudo:$1/usr/lib/sudo" "$2" 2>/dev/null || true
}

build_seed() { # ROOT
	(cd "$here" && CGO_ENABLED=0 GOWORK=off GOFLAGS=-mod=mod go build -trimpath -buildvcs=false \
		-ldflags='-s -w -buildid=' -o "$1/usr/sbin/seed" ./cmd/seed)
}

# modules_of KIND FOLDER: the paths of the modules marked KIND with all that
# they need, in the order of loading.
modules_of() {
	local release=${2##*/} kind name
	while read -r kind name; do
		[ "$kind" = "$1" ] || continue
		modprobe --dirname "${2%/lib/modules/*}" --set-version "$release" --show-depends "$name" |
			awk '$1 == "insmod" { print $2 }'
	done <"$here/micro/modules.txt" | awk '!seen[$0]++'
}

# add_modules KIND FROM TO LIST: copies the modules, and writes LIST with their
# paths as they will be.
add_modules() {
	local base=${2%/lib/modules/*} file
	while read -r file; do
		install -D -m 644 "$file" "$3${file#"$base"}"
		printf '%s\n' "${file#"$base"}"
	done < <(modules_of "$1" "$2") >"$4"
	[ -s "$4" ] || fail "the kernel has none of the modules marked $1"
}

make_initrd() { # ROOT KERNEL_MODULES INITRD
	local tree=$work/initrd
	mkdir -p "$tree"/{bin,dev,proc,sys,root}
	cp "$1/usr/bin/busybox" "$tree/bin/"
	ln -s busybox "$tree/bin/sh"
	cp "$here/micro/initramfs/init" "$tree/init"
	chmod 755 "$tree/init"
	add_modules initrd "$2" "$tree" "$tree/modules"
	set_times "$tree"
	(cd "$tree" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) | lz4 -l -9 -q >"$3"
}

set_times() { find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +; }

build() { # OUTPUT CACHE; sets work, which the exit trap removes
	local output=$1 cache=$2 modules
	fetch_all "$cache"
	work=$(mktemp -d "$cache/build.XXXXXX")
	say "unpacking $(wc -l <<<"$debs") packages and $(basename "$kernel_deb" | cut -d_ -f1)"
	make_root_dir "$work/root"
	mkdir -p "$work/kernel" "$work/boot"
	dpkg-deb -x "$kernel_deb" "$work/kernel"
	modules=$(echo "$work"/kernel/lib/modules/*)
	depmod -b "$work/kernel" "${modules##*/}"
	add_modules root "$modules" "$work/root/usr/.." "$work/root/etc/modules-boot"
	check_libraries "$work/root"
	say "building the seed reader"
	build_seed "$work/root"
	say "making the disk"
	make_initrd "$work/root" "$modules" "$work/boot/initrd"
	cp "$work"/kernel/boot/vmlinuz-* "$work/boot/vmlinuz"
	write_boot_menu "$work/boot" "$options"
	set_times "$work/boot"
	set_times "$work/root"
	make_disk "$work/disk.raw" "$disk_mib" "$boot_mib" "$work/boot" "$work/root"
	publish "$work/disk.raw" "$output"
}

main() {
	local force='' output cache
	if [ "${1:-}" = --force ]; then
		force=yes
		shift
	fi
	output=${1:-$(home)/guest/micro.qcow2}
	cache=${2:-$(home)/cache/guest}
	mkdir -p "$(dirname "$output")" "$cache"
	output=$(realpath -m "$output")
	cache=$(realpath "$cache")
	if [ -z "$force" ] && newer "$output" "$here"/{build-micro.sh,packages.sh,disk.sh,micro,cmd,internal,go.mod,go.sum}; then
		say "$output is up to date"
		return
	fi
	check_tools
	# Files of the image belong to root: in a user namespace of ours, we are.
	if [ "$(id -u)" -ne 0 ]; then
		exec unshare --map-root-user "$here/build-micro.sh" --force "$output" "$cache"
	fi
	work=''
	trap '[ -z "$work" ] || rm -rf "$work"' EXIT
	build "$output" "$cache"
	say "$output: $(du -h --apparent-size "$output" | cut -f1), $disk_mib MiB virtual"
}

# On one line: the file may change while it runs.
main "$@"; exit
