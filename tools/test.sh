#!/usr/bin/env bash
# Runs the tests.
#   fast   what needs no guest and no Kubernetes API: under two minutes, warm
#   all    everything; the last one boots a guest through the built programs
#   soak   the long ones alone; ORLOP_SOAK_ROUNDS sets how many rounds some of them take
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-all}
export CGO_ENABLED=0
export PATH="$PWD/bin:$PATH"
tags=containers_image_openpgp

# The modules of the workspace, as patterns: the root is no module.
packages() {
	go list -m -f '{{.Dir}}/...' | grep -v '/gen/\.\.\.$'
}

# Modules outside of the workspace have tests of their own.
test_tools() {
	echo "== tools/protoc-gen-crd"
	GOWORK=off go test -C tools/protoc-gen-crd "$@" ./...
	echo "== tools/toykind"
	GOWORK=off go test -C tools/toykind "$@" ./...
}

mapfile -t all < <(packages)
case $mode in
fast)
	go test -tags "$tags" -short "${all[@]}"
	test_tools -short
	;;
all)
	go test -tags "$tags" -timeout 40m "${all[@]}"
	test_tools -timeout 40m
	;;
soak)
	go test -tags "$tags,soak" -timeout 12h -run Soak "${all[@]}"
	;;
*)
	echo "usage: $0 fast|all|soak" >&2
	exit 2
	;;
esac
