package install

import (
	"context"

	rbac "k8s.io/api/rbac/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// SubresourceGroup is the API group in which rights on a VM's console and
// ports are granted, as in `d8 v`.
const SubresourceGroup = "subresources.virtualization.deckhouse.io"

const aggregateLabel = "rbac.authorization.k8s.io/aggregate-to-"

// ApplyRoles installs the roles that aggregate into Kubernetes' own view, edit
// and admin. Kinds of the cluster may be read by all that may read the
// namespaced ones; who may change them is the cluster's administrator's to say.
func ApplyRoles(ctx context.Context, c client.Client, definitions []*apiextensions.CustomResourceDefinition) error {
	for _, role := range Roles(definitions) {
		if err := apply(ctx, c, role); err != nil {
			return err
		}
	}
	return nil
}

// Roles are the roles for the kinds that the definitions define.
func Roles(definitions []*apiextensions.CustomResourceDefinition) []*rbac.ClusterRole {
	resources := map[string]map[apiextensions.ResourceScope][]string{}
	for _, definition := range definitions {
		group := resources[definition.Spec.Group]
		if group == nil {
			group = map[apiextensions.ResourceScope][]string{}
			resources[definition.Spec.Group] = group
		}
		group[definition.Spec.Scope] = append(group[definition.Spec.Scope], definition.Spec.Names.Plural)
	}

	view := role("orlop:view", "view")
	edit := role("orlop:edit", "edit")
	admin := role("orlop:admin", "admin")
	for group, byScope := range resources {
		read := append(append([]string{}, byScope[apiextensions.NamespaceScoped]...), byScope[apiextensions.ClusterScoped]...)
		view.Rules = append(view.Rules, rule(group, read, "get", "list", "watch"))
		write := rule(group, byScope[apiextensions.NamespaceScoped],
			"create", "update", "patch", "delete", "deletecollection")
		edit.Rules = append(edit.Rules, write)
		admin.Rules = append(admin.Rules, write)
	}
	access := rule(SubresourceGroup,
		[]string{"virtualmachines/console", "virtualmachines/vnc", "virtualmachines/portforward", "virtualmachines/guestinfo", "virtualdisks/export", "virtualdisksnapshots/export"}, "get")
	edit.Rules = append(edit.Rules, access)
	admin.Rules = append(admin.Rules, access)
	return []*rbac.ClusterRole{view, edit, admin}
}

func role(name, aggregateTo string) *rbac.ClusterRole {
	return &rbac.ClusterRole{ObjectMeta: metav1.ObjectMeta{
		Name:   name,
		Labels: map[string]string{aggregateLabel + aggregateTo: "true"},
	}}
}

func rule(group string, resources []string, verbs ...string) rbac.PolicyRule {
	return rbac.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: verbs}
}
