#!/usr/bin/env bash
# Builds bin/kube (kube-apiserver, kube-controller-manager, kube-proxy, kubectl) and its name bin/kubectl. Does nothing when they are up to date.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$(cd "$here/../.." && pwd)/bin
kube=$bin/kube

export CGO_ENABLED=0 GOWORK=off

up_to_date() {
	[[ -x $kube && -z $(find "$here" -type f -newer "$kube" -print -quit) ]]
}

# Kubernetes takes its own version from the linker only: without it the server calls itself v0.0.0 and kubectl can't parse that.
linker_flags() {
	local version=$1 major minor package
	IFS=. read -r major minor _ <<<"${version#v}"
	printf -- '-s -w'
	for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		printf -- ' -X %s.gitVersion=%s -X %s.gitMajor=%s -X %s.gitMinor=%s' \
			"$package" "$version" "$package" "$major" "$package" "$minor"
	done
}

# Each file appears whole, by a rename, so that a build that was cut short or runs twice leaves nothing half-written.
build() {
	local version scratch
	version=$(go -C "$here" list -m -f '{{.Version}}' k8s.io/kubernetes)
	echo "building bin/kube: Kubernetes $version from its Go modules; the first time takes minutes (about 2,000 packages)"
	mkdir -p "$bin"
	scratch=$(mktemp -d "$bin/.kube.XXXXXX")
	# shellcheck disable=SC2064 # the name must be the one of now: the variable is local
	trap "rm -rf -- '$scratch'" EXIT
	touch "$scratch/begun"
	go -C "$here" build -trimpath -ldflags "$(linker_flags "$version")" -o "$scratch/kube" .
	touch -r "$scratch/begun" "$scratch/kube" # so that what is edited during the build counts as newer
	ln -s kube "$scratch/kubectl"
	mv -fT "$scratch/kubectl" "$bin/kubectl"
	mv -fT "$scratch/kube" "$kube"
}

up_to_date || build
