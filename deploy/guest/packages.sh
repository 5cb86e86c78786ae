# Sourced by the build scripts: fetches Debian packages without installing
# them, and without root. apt keeps its state and its lists in the cache folder,
# so the machine's own stay as they are.
# shellcheck shell=bash

say() { printf 'guest: %s\n' "$*"; }
fail() {
	printf 'guest: %s\n' "$*" >&2
	exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034 # the scripts that source this one use it
suite=bookworm
export PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin
# Debian's own Go is told to stay as old as it is; go.mod asks for a newer one.
export GOTOOLCHAIN=${GOTOOLCHAIN:-auto}

# home prints where Orlop keeps its state.
home() { printf '%s\n' "${ORLOP_HOME:-$(cd "$here/../.." && pwd)/.orlop}"; }

# newer FILE INPUT...: the file exists and no input changed after it was made.
newer() {
	local file=$1
	shift
	[ -e "$file" ] && [ -z "$(find "$@" -type f ! -name '*_test.go' -newer "$file" -print -quit)" ]
}

# write_sources FILE: the machine's own Debian source, with its updates.
write_sources() {
	"$here/../setup/debian-sources.sh" "$suite" "$suite-updates" "$suite-security" >"$1" ||
		fail "this machine has no apt source for Debian 12 ($suite), which the guests are made of"
}

# apt CACHE COMMAND...: apt-get (or apt-cache) with a state of its own.
private_apt() {
	local cache=$1 program=$2
	shift 2
	"$program" -o Dir::State="$cache/apt/state" -o Dir::Cache="$cache/apt/cache" \
		-o Dir::State::status="$cache/apt/state/status" \
		-o Dir::Etc::SourceList="$cache/apt/debian.sources" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
		-o APT::Sandbox::User=root -o APT::Architecture=amd64 -o Acquire::Languages=none \
		-q -q "$@"
}

# refresh CACHE: reads the package lists anew.
refresh() {
	local cache=$1
	say "reading Debian's package lists"
	mkdir -p "$cache/apt/state/lists/partial" "$cache/apt/cache/archives/partial"
	: >"$cache/apt/state/status"
	write_sources "$cache/apt/debian.sources"
	private_apt "$cache" apt-get update && touch "$cache/apt/refreshed"
}

# refresh_daily CACHE: the same at most once a day; old lists serve where it fails.
refresh_daily() {
	if [ -z "$(find "$1/apt/refreshed" -mmin -1440 -print 2>/dev/null)" ]; then
		refresh "$1" || [ -e "$1/apt/refreshed" ] || fail "can't read Debian's package lists"
	fi
}

# fetch CACHE PACKAGE...: has the packages in CACHE/debs, and prints their
# paths in the same order. Only what is not there yet is downloaded.
fetch() {
	local cache=$1 package file files wanted=()
	shift
	mkdir -p "$cache/debs"
	files=$(cd "$cache/apt" && private_apt "$cache" apt-get download --print-uris "$@" | awk '{ print $2 }') || return 1
	for package in "$@"; do
		file=$(grep -m1 "^${package}_" <<<"$files") || fail "Debian has no package $package"
		[ -e "$cache/debs/$file" ] || wanted+=("$package")
	done
	if [ ${#wanted[@]} -gt 0 ]; then
		say "downloading ${#wanted[@]} packages" >&2
		(cd "$cache/debs" && private_apt "$cache" apt-get download "${wanted[@]}") >&2 || return 1
	fi
	for package in "$@"; do
		printf '%s/debs/%s\n' "$cache" "$(grep -m1 "^${package}_" <<<"$files")"
	done
}
