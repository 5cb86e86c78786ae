#!/usr/bin/env bash
# Builds the pinned tools into bin/.
#
# usage: tools/build.sh [generate|test|lint|all]...
#
#   generate  buf and the protoc plugins (what `make generate` needs)
#   test      gotestsum, grpcurl, mockgen
#   lint      golangci-lint (six minutes on two cold cores)
#   all       everything
#
# With no group named, generate and test are built.
#
# A tool whose inputs have not changed is skipped. Each binary appears by
# rename, so that a build cut short never leaves half a tool behind.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$root/bin
stamps=$bin/.stamps
# shellcheck source=tools/versions
source "$root/tools/versions"

export GOWORK=off CGO_ENABLED=0
mkdir -p "$stamps"
partial=$(mktemp -d "$bin/.partial.XXXXXX")
trap 'rm -rf "$partial"' EXIT

# build NAME KEY COMMAND...: runs COMMAND, which must leave NAME in $partial,
# unless bin/NAME was already built from KEY.
build() {
  local name=$1 key=$2 start=$SECONDS
  shift 2
  if [[ -x $bin/$name && -f $stamps/$name && $(<"$stamps/$name") == "$key" ]]; then
    return
  fi
  echo "tools: building $name" >&2
  "$@"
  rm -f "$stamps/$name"
  mv "$partial/$name" "$bin/$name"
  printf '%s\n' "$key" >"$stamps/$name"
  echo "tools: $name is ready after $((SECONDS - start)) s" >&2
}

hash_of() { cat "$@" | sha256sum | cut -c1-16; }

# pinned PACKAGE: a tool of tools/go.mod.
pinned() {
  build "${1##*/}" "$go $(hash_of "$root/tools/go.mod" "$root/tools/go.sum")" \
    go build -C "$root/tools" -o "$partial/" "$1"
}

# installed PACKAGE VERSION: a tool with a module graph of its own.
installed() {
  build "${1##*/}" "$go $2" env GOBIN="$partial" go install "$1@$2"
}

# local_tool FOLDER: a tool of this repository.
local_tool() {
  local sources
  mapfile -t sources < <(find "$root/tools/$1" -maxdepth 1 \
    \( -name '*.go' -o -name 'go.*' \) ! -name '*_test.go' | LC_ALL=C sort)
  build "$1" "$go $(hash_of "${sources[@]}")" \
    go build -C "$root/tools/$1" -o "$partial/" .
}

generate() {
  pinned google.golang.org/protobuf/cmd/protoc-gen-go
  pinned google.golang.org/grpc/cmd/protoc-gen-go-grpc
  pinned github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway
  pinned github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv2
  local_tool protoc-gen-crd
  installed github.com/bufbuild/buf/cmd/buf "$BUF_VERSION"
}

test_tools() {
  pinned gotest.tools/gotestsum
  pinned github.com/fullstorydev/grpcurl/cmd/grpcurl
  pinned github.com/golang/mock/mockgen
}

lint() {
  installed github.com/golangci/golangci-lint/v2/cmd/golangci-lint "$GOLANGCI_LINT_VERSION"
}

go=$(go env GOVERSION)
[[ $# -gt 0 ]] || set -- generate test
for group in "$@"; do
  case $group in
  generate) generate ;;
  test) test_tools ;;
  lint) lint ;;
  all) generate && test_tools && lint ;;
  *)
    echo "tools/build.sh: no group of tools is called $group" >&2
    exit 2
    ;;
  esac
done
