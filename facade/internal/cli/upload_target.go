package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	_ "orlop.dev/gen/orlop/disk/v1" // kinds are found among those that are linked in
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/manifest"
)

// fieldUploadURLs is the field of status by which a kind is known that files can
// be uploaded to.
const fieldUploadURLs = "image_upload_urls"

// uploadTarget is the object that a file is uploaded to.
type uploadTarget struct {
	kind   *kind.Kind
	key    resource.Key
	client *resource.Client[resource.Object]
}

// newUploadTarget reads KIND/NAME or KIND/NAME.NAMESPACE.
func newUploadTarget(conn grpc.ClientConnInterface, argument, namespace string) (*uploadTarget, error) {
	word, name, named := strings.Cut(argument, "/")
	k := uploadKind(word)
	if !named || name == "" || k == nil {
		return nil, &targetError{argument}
	}
	if own, other, dotted := strings.Cut(name, "."); dotted {
		name, namespace = own, other
	}
	if !k.Namespaced {
		namespace = ""
	}
	client, err := resource.NewClient[resource.Object](conn, k)
	if err != nil {
		return nil, err
	}
	return &uploadTarget{kind: k, key: resource.Key{Namespace: namespace, Name: name}, client: client}, nil
}

// targetError is an argument that names nothing to upload to.
type targetError struct{ argument string }

func (e *targetError) Error() string {
	var words []string
	for _, k := range uploadKinds() {
		words = append(words, shortName(k)+"/NAME ("+k.Name+")")
	}
	return fmt.Sprintf("%q is nothing to upload to: give %s", e.argument, strings.Join(words, ", "))
}

// uploadKinds are the kinds that files can be uploaded to.
func uploadKinds() []*kind.Kind {
	return slices.DeleteFunc(kind.All(), func(k *kind.Kind) bool {
		return k.Service == "" || k.Status == nil || k.Status.Message().Fields().ByName(fieldUploadURLs) == nil
	})
}

// uploadKind finds a kind by any of its names; nil if it takes no files.
func uploadKind(word string) *kind.Kind {
	for _, k := range uploadKinds() {
		if slices.Contains(append(slices.Clone(k.ShortNames), k.Singular, k.Plural), strings.ToLower(word)) {
			return k
		}
	}
	return nil
}

func shortName(k *kind.Kind) string {
	if len(k.ShortNames) > 0 {
		return k.ShortNames[0]
	}
	return k.Singular
}

func (t *uploadTarget) String() string { return t.kind.Singular + "/" + t.key.Name }

// create makes the object, unless it is there.
func (t *uploadTarget) create(ctx context.Context) error {
	metadata := map[string]string{"name": t.key.Name}
	if t.key.Namespace != "" {
		metadata["namespace"] = t.key.Namespace
	}
	text, err := json.Marshal(map[string]any{
		"apiVersion": t.kind.APIVersion(), "kind": t.kind.Name, "metadata": metadata,
		"spec": map[string]any{"dataSource": map[string]any{"type": "Upload"}},
	})
	if err != nil {
		return err
	}
	object, ok := t.kind.New().(resource.Object)
	if !ok {
		return fault.New(fault.Internal, fault.ReasonInternal, "%s is no object", t.kind)
	}
	if err := manifest.DecodeJSON(text, object); err != nil {
		return err
	}
	if _, err = t.client.Create(ctx, object, resource.WriteOptions{}); fault.Is(err, fault.Exists) {
		return nil
	}
	return err
}

// look returns the object's status.
func (t *uploadTarget) look(ctx context.Context) (*uploadStatus, error) {
	object, err := t.client.Get(ctx, t.key)
	if fault.Is(err, fault.NotFound) {
		return nil, fmt.Errorf("%w: --create makes it", err)
	}
	if err != nil {
		return nil, err
	}
	// What is written as JSON is what a manifest has, whatever the kind.
	text, err := protojson.Marshal(object.ProtoReflect().Get(t.kind.Status).Message().Interface())
	if err != nil {
		return nil, err
	}
	status := &uploadStatus{target: t.String()}
	return status, json.Unmarshal(text, status)
}

// uploadStatus is what the kinds' statuses have in common.
type uploadStatus struct {
	Phase, Progress string
	ImageUploadURLs struct{ External string }
	Conditions      []struct{ Type, Status, Reason, Message string }

	target string
}

// Words of the kinds' phases and conditions.
const (
	phaseReady     = "Ready"
	phaseFailed    = "Failed"
	conditionReady = "Ready"
)

// errTakesNoFile says that an object isn't waiting for a file.
var errTakesNoFile = errors.New("is Ready and takes no file: upload to another object")

// token is the secret by which the file is sent; empty while there is none.
func (s *uploadStatus) token() string {
	if s.ImageUploadURLs.External == "" {
		return ""
	}
	return path.Base(s.ImageUploadURLs.External)
}

// takesFile reports whether the file can be sent.
func (s *uploadStatus) takesFile() (bool, error) {
	if s.Phase == phaseReady {
		return false, fmt.Errorf("%s %w", s.target, errTakesNoFile)
	}
	return s.token() != "", s.failure()
}

// ready reports whether the object can be used.
func (s *uploadStatus) ready() (bool, error) { return s.Phase == phaseReady, s.failure() }

func (s *uploadStatus) failure() error {
	if s.Phase != phaseFailed {
		return nil
	}
	failed := &objectError{target: s.target}
	for _, condition := range s.Conditions {
		if condition.Type == conditionReady {
			failed.reason, failed.message = condition.Reason, condition.Message
		}
	}
	return failed
}

// objectError is an object whose phase is Failed.
type objectError struct{ target, reason, message string }

func (e *objectError) Error() string {
	return fmt.Sprintf("%s failed: %s: %s", e.target, e.reason, e.message)
}

// completeUpload offers files, then objects that wait for one.
func (c *client) completeUpload(command *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	word, _, hasKind := strings.Cut(typed, "/")
	if !hasKind {
		var kinds []string
		for _, k := range uploadKinds() {
			kinds = append(kinds, shortName(k)+"/")
		}
		return kinds, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
	k := uploadKind(word)
	if k == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.names(command.Context(), k, word+"/"), cobra.ShellCompDirectiveNoFileComp
}
