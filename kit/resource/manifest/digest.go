package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"google.golang.org/protobuf/proto"
)

// digestChars is the length of a digest: 64 bits tell the states of one object
// apart, and fit into an annotation without a fuss.
const digestChars = 16

// Digest is a short hash (16 hex characters) of what a user can write: spec,
// labels, and annotations but those with one of the prefixes. Equal digests mean
// equal wishes, whatever status and versions say.
func Digest(m proto.Message, ignoredAnnotationPrefixes ...string) (string, error) {
	manifest, err := Encode(m)
	if err != nil {
		return "", err
	}
	metadata, _ := manifest["metadata"].(map[string]any)
	wish := map[string]any{"spec": manifest["spec"], "labels": metadata["labels"]}
	if kept := without(metadata["annotations"], ignoredAnnotationPrefixes); len(kept) > 0 {
		wish["annotations"] = kept
	}
	text, err := json.Marshal(wish) // sorted keys: the canonical form
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])[:digestChars], nil
}

func without(annotations any, prefixes []string) map[string]any {
	all, _ := annotations.(map[string]any)
	kept := make(map[string]any, len(all))
	for key, value := range all {
		if !hasPrefix(key, prefixes) {
			kept[key] = value
		}
	}
	return kept
}

func hasPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
