#!/usr/bin/env bash
# Builds what runs on one machine into bin/: orlop, orlopd, the services'
# own programs, and the local Kubernetes API with kubectl.
#
# Go's cache makes a second run quick. Each binary appears by a rename, so that
# one that runs is not disturbed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=$root/bin
export CGO_ENABLED=0
export PATH=$PATH:/usr/local/go/bin

# The other names of orlop: the command that the platform's guide uses, and
# kubectl's plugin ("kubectl v") with what completes it.
names=(d8 kubectl-v kubectl_complete-v)

say() { printf 'build: %s\n' "$*"; }

version() {
	git -C "$root" describe --tags --always --dirty 2>/dev/null || echo dev
}

# build NAME PACKAGE: PACKAGE is a folder of the workspace.
build() {
	local start=$SECONDS
	go build -C "$root" -tags containers_image_openpgp \
		-ldflags "-s -w -X main.version=$version" -o "$scratch/$1" "./$2"
	mv -f "$scratch/$1" "$bin/$1"
	say "bin/$1 is ready after $((SECONDS - start)) s"
}

main() {
	local service
	mkdir -p "$bin"
	version=$(version)
	scratch=$(mktemp -d "$bin/.build.XXXXXX")
	trap 'rm -rf -- "$scratch"' EXIT
	"$root/tools/kubernetes/build.sh"
	build orlop facade/cmd/orlop
	for name in "${names[@]}"; do
		ln -sfn orlop "$bin/$name"
	done
	build orlopd deploy/local/cmd/orlopd
	for service in image disk network vm snapshot; do
		[ ! -e "$root/services/$service/cmd/$service-service/main.go" ] ||
			build "$service-service" "services/$service/cmd/$service-service"
	done
}

# On one line: the file may change while it runs.
main "$@"; exit
