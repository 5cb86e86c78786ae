package twin

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/manifest"
)

const (
	// Finalizer holds a custom resource until its service's object is gone.
	Finalizer = "orlop.dev/service"
	// agreementAnnotation remembers, on the custom resource, what both sides last
	// agreed on: digest/store/UID of the custom resource.
	agreementAnnotation = "orlop.dev/synced"

	ownAnnotations     = "orlop.dev/"
	kubectlAnnotations = "kubectl.kubernetes.io/"
)

func isPrivate(annotation string) bool {
	return strings.HasPrefix(annotation, ownAnnotations) || strings.HasPrefix(annotation, kubectlAnnotations)
}

// agreementOf reads the memory of a custom resource. A memory that another
// object had (a manifest that was saved and applied again) is none. The UID is
// missing only in what the facade itself is about to create.
func agreementOf(cr *unstructured.Unstructured) Agreement {
	parts := strings.Split(cr.GetAnnotations()[agreementAnnotation], "/")
	if len(parts) != 3 || parts[2] != "" && parts[2] != string(cr.GetUID()) {
		return Agreement{}
	}
	return Agreement{Digest: parts[0], Store: parts[1]}
}

func remember(cr *unstructured.Unstructured, agreed Agreement) {
	annotations := cr.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[agreementAnnotation] = strings.Join([]string{agreed.Digest, agreed.Store, string(cr.GetUID())}, "/")
	cr.SetAnnotations(annotations)
}

// digest is a short hash of all that a user can write: equal digests mean equal
// wishes. Owners count by name, since their UIDs differ between the sides.
func digest(object resource.Object) (string, error) {
	wishes, err := manifest.Digest(object, ownAnnotations, kubectlAnnotations)
	if err != nil {
		return "", err
	}
	var owners []string
	for _, owner := range object.GetMetadata().GetOwnerReferences() {
		owners = append(owners, ownerName(owner))
	}
	if len(owners) == 0 {
		return wishes, nil
	}
	slices.Sort(owners)
	sum := sha256.Sum256([]byte(wishes + "\n" + strings.Join(owners, "\n")))
	return hex.EncodeToString(sum[:8]), nil
}

func ownerName(owner *metav1.OwnerReference) string {
	return owner.GetApiVersion() + "/" + owner.GetKind() + "/" + owner.GetName()
}
