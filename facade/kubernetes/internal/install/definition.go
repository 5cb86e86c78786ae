// Package install puts into a Kubernetes API what the facade stands on: the
// kinds' definitions, the roles that may use them, and the admission webhook.
// It names no kind; it must not know what the facade does with them.
package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// FieldOwner is the name under which the facade applies what it installs.
const FieldOwner = client.FieldOwner("orlop-facade")

const (
	establishPoll    = 100 * time.Millisecond
	establishTimeout = time.Minute
)

// Definitions reads the CustomResourceDefinitions of a folder of YAML files.
func Definitions(files fs.FS) ([]*apiextensions.CustomResourceDefinition, error) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, err
	}
	var definitions []*apiextensions.CustomResourceDefinition
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		definition := new(apiextensions.CustomResourceDefinition)
		if err := yaml.UnmarshalStrict(text, definition); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		definitions = append(definitions, definition)
	}
	return definitions, nil
}

// ApplyDefinitions installs or updates the definitions and blocks until the
// API server serves them all. Idempotent.
func ApplyDefinitions(ctx context.Context, c client.Client, definitions []*apiextensions.CustomResourceDefinition) error {
	for _, definition := range definitions {
		if err := apply(ctx, c, definition.DeepCopy()); err != nil {
			return fmt.Errorf("install %s: %w", definition.Name, err)
		}
	}
	for _, definition := range definitions {
		if err := waitEstablished(ctx, c, definition.Name); err != nil {
			return err
		}
	}
	return nil
}

func waitEstablished(ctx context.Context, c client.Client, name string) error {
	var last error
	established := func(ctx context.Context) (bool, error) {
		definition := new(apiextensions.CustomResourceDefinition)
		if last = c.Get(ctx, client.ObjectKey{Name: name}, definition); last != nil {
			return false, client.IgnoreNotFound(last)
		}
		for _, condition := range definition.Status.Conditions {
			if condition.Status != apiextensions.ConditionTrue {
				last = fmt.Errorf("%s: %s", condition.Reason, condition.Message)
				continue
			}
			if condition.Type == apiextensions.Established {
				return true, nil
			}
		}
		return false, nil
	}
	err := wait.PollUntilContextTimeout(ctx, establishPoll, establishTimeout, true, established)
	if err != nil {
		return fmt.Errorf("definition %s is not served: %w", name, errors.Join(err, last))
	}
	return nil
}

// apply is a server-side apply of a typed object. The facade owns what it
// installs: it takes over fields that others set.
func apply(ctx context.Context, c client.Client, object client.Object) error {
	kinds, _, err := c.Scheme().ObjectKinds(object)
	if err != nil {
		return err
	}
	object.GetObjectKind().SetGroupVersionKind(kinds[0])
	object.SetManagedFields(nil)
	object.SetResourceVersion("")
	//nolint:staticcheck // The typed Apply needs generated configurations, which these types' users don't have.
	return c.Patch(ctx, object, client.Apply, FieldOwner, client.ForceOwnership)
}
