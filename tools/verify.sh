#!/usr/bin/env bash
# Proves that what is committed is what its sources say. Changes nothing.
#
# usage: tools/verify.sh [CHECK]...
#
# Checks: generated tidy sync breaking format shell (default: all). What is
# found wrong is printed with the command that repairs it.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
aside=$(mktemp -d)
trap 'rm -rf "$aside"' EXIT

# The checks run as conditions, where bash does not stop at a failed command:
# each returns by itself.

# files PATTERN...: the repository's own files, committed or about to be.
files() { git ls-files --cached --others --exclude-standard -- "$@"; }

modules() { files go.mod '*/go.mod' | xargs -r -n1 dirname; }

check_generated() {
  tools/generate.sh "$aside/gen" || return
  # The module's own files are kept by hand (go mod tidy), not generated.
  diff -r --exclude='go.*' --exclude='.fresh.*' "$aside/gen" gen || {
    echo "gen/ is not what proto/ says: run make generate" >&2
    return 1
  }
}

check_tidy() {
  local module bad=0
  for module in $(modules); do
    GOWORK=off go -C "$module" mod tidy -diff || {
      echo "$module: run GOWORK=off go -C $module mod tidy" >&2
      bad=1
    }
  done
  return "$bad"
}

# go work sync has no dry run, so it works on a copy of what it may write,
# which is all that it reads too.
check_sync() {
  local copy=$aside/sync
  mkdir -p "$copy"
  files go.work go.work.sum '*go.mod' '*go.sum' | xargs cp --parents -t "$copy"
  (cd "$copy" && go work sync) || return
  local file bad=0
  while read -r file; do
    diff "$file" "$copy/$file" || bad=1
  done < <(files '*go.mod')
  [[ $bad == 0 ]] || echo "run go work sync, then tidy" >&2
  return "$bad"
}

# baseline names the commit that the API must stay compatible with: the last
# release; before the first one, where this branch left main; on main, the
# commit before. Nothing where none of them has a schema.
baseline() {
  local candidate head
  head=$(git rev-parse --verify --quiet HEAD) || return 0
  for candidate in \
    "$(git describe --tags --abbrev=0 2>/dev/null || true)" \
    "$(git merge-base HEAD origin/main 2>/dev/null || true)" \
    "$(git merge-base HEAD main 2>/dev/null || true)" \
    "$(git rev-parse --verify --quiet HEAD^ || true)"; do
    if [[ -n $candidate && $candidate != "$head" ]] &&
      git cat-file -e "$candidate:buf.yaml" 2>/dev/null; then
      git rev-parse "$candidate^{commit}"
      return
    fi
  done
}

check_breaking() {
  local against
  against=$(baseline)
  if [[ -z $against ]]; then
    echo "no earlier schema to compare with" >&2
    return
  fi
  tools/build.sh generate || return
  bin/buf breaking --against ".git#ref=$against"
}

check_format() {
  local bad
  bad=$(files '*.go' | xargs -r gofmt -l)
  [[ -z $bad ]] || {
    printf 'gofmt would change:\n%s\n' "$bad" >&2
    return 1
  }
}

check_shell() {
  command -v shellcheck >/dev/null || {
    echo "shellcheck is not installed: make setup" >&2
    return 1
  }
  local scripts
  mapfile -t scripts < <(files | xargs -r -d '\n' awk \
    'FNR == 1 { if (/^#!.*[\/ ](ba)?sh$/) print FILENAME; nextfile }')
  shellcheck --external-sources "${scripts[@]}"
}

failed=()
checks=("$@")
[[ $# -gt 0 ]] || checks=(generated tidy sync breaking format shell)
for check in "${checks[@]}"; do
  echo "verify: $check" >&2
  "check_$check" || failed+=("$check")
done
if [[ ${#failed[@]} -gt 0 ]]; then
  echo "verify: failed: ${failed[*]}" >&2
  exit 1
fi
echo "verify: all is as it should be" >&2
