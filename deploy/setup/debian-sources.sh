#!/usr/bin/env bash
# Prints an apt source (deb822) for each suite named, with the URI and the key
# that this machine's own Debian source already uses. So no mirror is named
# here, and a machine behind a local mirror stays behind it.
#
#   debian-sources.sh bookworm bookworm-security
#   debian-sources.sh bookworm-backports      # falls back on bookworm's URI
#
# Exit code 1, with a sentence, when no source of the machine fits.
set -euo pipefail

apt_dir=${ORLOP_APT_DIR:-/etc/apt}

# Every source as one line: suite, tab, URI, tab, key (a path, or empty).
list_sources() {
	local file
	for file in "$apt_dir"/sources.list.d/*.sources; do
		[ -r "$file" ] && deb822_sources "$file"
	done
	for file in "$apt_dir"/sources.list "$apt_dir"/sources.list.d/*.list; do
		[ -r "$file" ] && one_line_sources "$file"
	done
	return 0
}

deb822_sources() {
	sed -e '/^#/d' -e 's/[[:space:]]*$//' "$1" | awk '
		function flush(    i, j, suites, uris) {
			if (field["types"] ~ /(^| )deb( |$)/ && tolower(field["enabled"]) != "no") {
				split(field["uris"], uris, " "); split(field["suites"], suites, " ")
				for (i in suites) for (j in uris)
					print suites[i] "\t" uris[j] "\t" field["signed-by"]
			}
			split("", field); name = ""
		}
		/^$/ { flush(); next }
		/^[ \t]/ { if (name != "") field[name] = field[name] " " $0; next }
		{
			colon = index($0, ":"); name = tolower(substr($0, 1, colon - 1))
			value = substr($0, colon + 1); sub(/^[ \t]+/, "", value); field[name] = value
		}
		END { flush() }'
}

one_line_sources() {
	awk '$1 == "deb" {
		key = ""; i = 2
		if ($2 ~ /^\[/) {
			for (; i <= NF; i++) {
				option = $i; gsub(/[][]/, "", option)
				if (option ~ /^signed-by=/) key = substr(option, 11)
				if ($i ~ /\]$/) { i++; break }
			}
		}
		print $(i + 1) "\t" $i "\t" key
	}' "$1"
}

print_source() { # suite, URI, key
	printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$2" "$1"
	# A key written into the source file itself can't be pointed at; the
	# machine's default keyring holds Debian's keys then.
	case $3 in
	/*) printf 'Signed-By: %s\n' "$3" ;;
	esac
	printf '\n'
}

main() {
	local suite base line sources
	sources=$(list_sources)
	for suite in "$@"; do
		line=$(awk -F'\t' -v s="$suite" '$1 == s { print; exit }' <<<"$sources")
		if [ -z "$line" ] && [ "${suite%-backports}" != "$suite" ]; then
			base=${suite%-backports}
			line=$(awk -F'\t' -v s="$base" '$1 == s { print; exit }' <<<"$sources")
		fi
		if [ -z "$line" ]; then
			echo "no apt source of this machine has the suite $suite" >&2
			return 1
		fi
		print_source "$suite" "$(cut -f2 <<<"$line")" "$(cut -f3 <<<"$line")"
	done
}

main "$@"
