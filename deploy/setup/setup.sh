#!/usr/bin/env bash
# Installs what Orlop needs on a Debian machine. What is there already is left
# alone; when nothing is missing it ends at once, with no network and no root.
#
#   setup.sh            install what is missing (root, or sudo)
#   setup.sh --check    only say what is missing; exit code 1 if Orlop can't
#                       work without it
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
backports_file=/etc/apt/sources.list.d/orlop-backports.sources
# Tools such as mke2fs and nft are in sbin, which a plain user's PATH lacks.
export PATH=$PATH:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin
export DEBIAN_FRONTEND=noninteractive

say() { printf 'setup: %s\n' "$*"; }
fail() {
	printf 'setup: %s\n' "$*" >&2
	exit 1
}

# at_least WANT HAVE: both dotted versions.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$1" ]; }

qemu_version() { qemu-system-x86_64 --version 2>/dev/null | sed -n 's/^QEMU emulator version \([0-9.]*\).*/\1/p'; }
go_version() { go env GOVERSION 2>/dev/null | sed 's/^go//'; }

present() { # probe
	local want=${1#*:} have
	case $1 in
	cmd:*) command -v "$want" >/dev/null ;;
	file:*) [ -e "$want" ] ;;
	qemu:*) have=$(qemu_version) && [ -n "$have" ] && at_least "$want" "$have" ;;
	go:*) have=$(cd / && go_version) && [ -n "$have" ] && at_least "$want" "$have" ;;
	*) fail "requirements.txt: unknown probe $1" ;;
	esac
}

# Prints the requirements that are not met, as they stand in the file.
missing() {
	local need probe package purpose
	while read -r need probe package purpose; do
		case $need in '' | '#'*) continue ;; esac
		present "$probe" || printf '%s %s %s %s\n' "$need" "$probe" "$package" "$purpose"
	done <"$here/requirements.txt"
}

check() {
	local need probe package purpose code=0
	while read -r need probe package purpose; do
		[ -n "$need" ] || continue
		printf '%-9s %-12s %s (%s)\n' "$need" "${probe#*:}" "$purpose" "package $package"
		[ "$need" = required ] && code=1
	done <<<"$1"
	if [ -n "$1" ]; then
		say "run 'make setup' to install them with apt"
	else
		say "everything is there: QEMU $(qemu_version), Go $(go_version)"
	fi
	return "$code"
}

become_root() {
	[ "$(id -u)" -ne 0 ] || return 0
	command -v sudo >/dev/null ||
		fail "packages are missing and installing them needs root: run 'make setup' as root, or install sudo"
	say "installing packages needs root: asking sudo"
	exec sudo -- "${BASH_SOURCE[0]}"
}

# Debian 12 has QEMU 7.2 and Go 1.19: both too old, so they come from its
# backports. Later releases have what is needed.
add_backports() {
	local codename wanted
	# shellcheck source=/dev/null
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	[ "$codename" = bookworm ] || return 0
	wanted=$("$here/debian-sources.sh" bookworm-backports) || fail "can't add bookworm-backports"
	if grep -rqsE '^[^#]*bookworm-backports([[:space:]]|$)' /etc/apt/sources.list /etc/apt/sources.list.d; then
		say "bookworm-backports is an apt source already"
		return 0
	fi
	printf '# QEMU and Go for Orlop; remove this file to go back.\n%s\n' "$wanted" >"$backports_file.new"
	mv "$backports_file.new" "$backports_file"
	say "added bookworm-backports ($backports_file)"
}

# From backports only what the release itself has too old.
release_option() { # package
	case $1 in
	qemu-system-x86 | qemu-utils | ovmf | golang-go)
		case $(apt-cache policy) in
		*n=bookworm-backports*) echo bookworm-backports ;;
		esac
		;;
	esac
}

apt_install() { # release or "", packages
	local release=$1
	shift
	[ $# -gt 0 ] || return 0
	say "installing $*${release:+ (from $release)}"
	apt-get install --yes --quiet --quiet --no-install-recommends -o Dpkg::Use-Pty=0 \
		${release:+--target-release "$release"} "$@" >/dev/null
}

install_missing() { # lines of missing
	local package plain=() backports=()
	while read -r package; do
		if [ -n "$(release_option "$package")" ]; then
			backports+=("$package")
		else
			plain+=("$package")
		fi
	done < <(awk '{ print $3 }' <<<"$1" | sort -u)
	apt_install "" "${plain[@]}"
	apt_install bookworm-backports "${backports[@]}"
}

main() {
	local lines
	lines=$(missing)
	case ${1:-} in
	--check) check "$lines"; return ;;
	'') ;;
	*) fail "usage: setup.sh [--check]" ;;
	esac
	if [ -z "$lines" ]; then
		check ""
		return
	fi
	command -v apt-get >/dev/null || fail "this is not a Debian machine (no apt-get); see deploy/setup/requirements.txt for what Orlop needs"
	become_root
	add_backports
	say "reading the package lists"
	apt-get update --quiet --quiet || fail "apt-get update failed: see its words above"
	install_missing "$lines"
	lines=$(missing)
	check "$lines"
}

# On one line: the file may change while it runs.
main "$@"; exit
