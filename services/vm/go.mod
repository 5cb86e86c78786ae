module orlop.dev/services/vm

go 1.26.0

require (
	github.com/google/uuid v1.6.0
	golang.org/x/sync v0.20.0
	golang.org/x/sys v0.49.0
	k8s.io/api v0.35.4
	k8s.io/apimachinery v0.35.4
	k8s.io/component-helpers v0.35.4
	orlop.dev/gen v0.0.0
	orlop.dev/kit v0.0.0
)

replace (
	orlop.dev/gen => ../../gen
	orlop.dev/kit => ../../kit
)
