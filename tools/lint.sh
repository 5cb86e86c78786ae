#!/usr/bin/env bash
# Runs the linters over the workspace, as .golangci.yaml configures them.
set -euo pipefail
cd "$(dirname "$0")/.."

export CGO_ENABLED=0
mapfile -t modules < <(go list -m -f '{{.Dir}}' | grep -v '/gen$')
failed=0
for module in "${modules[@]}"; do
	echo "== ${module#"$PWD"/}"
	(cd "$module" && "$OLDPWD/bin/golangci-lint" run --config "$OLDPWD/.golangci.yaml" --build-tags containers_image_openpgp ./...) || failed=1
done
exit "$failed"
