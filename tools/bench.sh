#!/usr/bin/env bash
# Runs the benchmarks, each beside what does the same elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."

export CGO_ENABLED=0
mapfile -t all < <(go list -m -f '{{.Dir}}/...' | grep -v '/gen/\.\.\.$')
go test -tags containers_image_openpgp -timeout 2h -run '^$' -bench . -benchmem "${all[@]}"
