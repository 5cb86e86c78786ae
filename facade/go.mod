module orlop.dev/facade

go 1.26.0

require (
	k8s.io/api v0.35.4
	k8s.io/apiextensions-apiserver v0.35.4
	k8s.io/apimachinery v0.35.4
	k8s.io/client-go v0.35.4
	orlop.dev/gen v0.0.0
	orlop.dev/kit v0.0.0
	sigs.k8s.io/controller-runtime v0.23.3
)

replace (
	orlop.dev/gen => ../gen
	orlop.dev/kit => ../kit
)
