package virtualimage

import (
	"context"
	"testing"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/auth/authtest"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

const clusterImages = "/orlop.image.v1.ClusterVirtualImageService/"

func clusterImage(source *imagev1.ClusterDataSource) *imagev1.ClusterVirtualImage {
	return &imagev1.ClusterVirtualImage{
		Metadata: &metav1.ObjectMeta{Name: "shared", Uid: "uid", Generation: 1},
		Spec:     &imagev1.ClusterVirtualImageSpec{DataSource: source},
	}
}

func pulls(namespace string) *imagev1.ClusterDataSource {
	return &imagev1.ClusterDataSource{
		Type: imagev1.DataSourceType_ContainerImage,
		ContainerImage: &imagev1.ClusterContainerImageSource{
			Image: "example.org/ubuntu", ImagePullSecret: &imagev1.ClusterImagePullSecret{Name: "pull", Namespace: namespace},
		},
	}
}

func copies(kind imagev1.ObjectRefKind_Value, namespace string) *imagev1.ClusterDataSource {
	return &imagev1.ClusterDataSource{
		Type:      imagev1.DataSourceType_ObjectRef,
		ObjectRef: &imagev1.ClusterObjectRef{Kind: kind, Name: "ubuntu", Namespace: namespace},
	}
}

// clusterRules judge images on a real registry.
func clusterRules(t *testing.T) *Reconciler[*imagev1.ClusterVirtualImage] {
	t.Helper()
	return &Reconciler[*imagev1.ClusterVirtualImage]{Kind: Cluster(), Intake: withRegistry(t).Intake, Now: reconciler().Now}
}

func TestClusterImageNamesWhatItsAuthorMayRead(t *testing.T) {
	for name, c := range map[string]struct {
		rights []string
		source *imagev1.ClusterDataSource
		want   fault.Class
	}{
		"a Secret":                       {[]string{"get secrets team pull"}, pulls("team"), fault.None},
		"a Secret of others":             {[]string{"get secrets team pull"}, pulls("others"), fault.Denied},
		"another Secret":                 {[]string{"get secrets team push"}, pulls("team"), fault.Denied},
		"a Secret of no namespace":       {[]string{"get secrets  pull"}, pulls(""), fault.Invalid},
		"an image":                       {[]string{"get virtualimages team ubuntu"}, copies(imagev1.ObjectRefKind_VirtualImage, "team"), fault.None},
		"an image that they may list":    {[]string{"list virtualimages team "}, copies(imagev1.ObjectRefKind_VirtualImage, "team"), fault.Denied},
		"an image of others":             {nil, copies(imagev1.ObjectRefKind_VirtualImage, "others"), fault.Denied},
		"a disk":                         {[]string{"get virtualdisks/export team ubuntu"}, copies(imagev1.ObjectRefKind_VirtualDisk, "team"), fault.None},
		"a snapshot":                     {[]string{"get virtualdisksnapshots/export team ubuntu"}, copies(imagev1.ObjectRefKind_VirtualDiskSnapshot, "team"), fault.None},
		"a snapshot that they may see":   {[]string{"get virtualdisksnapshots team ubuntu"}, copies(imagev1.ObjectRefKind_VirtualDiskSnapshot, "team"), fault.Denied},
		"a disk that they may only see":  {[]string{"get virtualdisks team ubuntu"}, copies(imagev1.ObjectRefKind_VirtualDisk, "team"), fault.Denied},
		"an image of the cluster's":      {nil, copies(imagev1.ObjectRefKind_ClusterVirtualImage, ""), fault.None},
		"nothing that needs other right": {nil, &imagev1.ClusterDataSource{Type: imagev1.DataSourceType_HTTP}, fault.None},
	} {
		t.Run(name, func(t *testing.T) {
			r, image := clusterRules(t), clusterImage(c.source)
			create := &imagev1.CreateClusterVirtualImageRequest{ClusterVirtualImage: image}
			err := authtest.As(t, c.rights, clusterImages+"CreateClusterVirtualImage", create, func(ctx context.Context) error {
				return r.Admit(ctx, nil, image)
			})
			if got := fault.ClassOf(err); got != c.want {
				t.Errorf("created: class %v, want %v: %v", got, c.want, err)
			}
			// What could not be named at first can't be named later.
			before := clusterImage(copies(imagev1.ObjectRefKind_ClusterVirtualImage, ""))
			update := &imagev1.UpdateClusterVirtualImageRequest{Name: "shared", ClusterVirtualImage: image}
			err = authtest.As(t, c.rights, clusterImages+"UpdateClusterVirtualImage", update, func(ctx context.Context) error {
				return r.Admit(ctx, before, image)
			})
			if got := fault.ClassOf(err); got != c.want {
				t.Errorf("changed: class %v, want %v: %v", got, c.want, err)
			}
		})
	}
}

func TestAnotherNamespaceAloneIsAnotherSource(t *testing.T) {
	for name, sources := range map[string][2]*imagev1.ClusterDataSource{
		"of a Secret": {pulls("team"), pulls("others")},
		"of an image": {copies(imagev1.ObjectRefKind_VirtualImage, "team"), copies(imagev1.ObjectRefKind_VirtualImage, "others")},
	} {
		t.Run(name, func(t *testing.T) {
			r := clusterRules(t)
			before, after := clusterImage(sources[0]), clusterImage(sources[1])
			update := &imagev1.UpdateClusterVirtualImageRequest{Name: "shared", ClusterVirtualImage: after}
			admit := func(ctx context.Context) error { return r.Admit(ctx, before, after) }
			rights := []string{"get secrets team pull", "get virtualimages team ubuntu"}
			if err := authtest.As(t, rights, clusterImages+"UpdateClusterVirtualImage", update, admit); !fault.Is(err, fault.Denied) {
				t.Errorf("got %v, want the other namespace denied", err)
			}
			label := resource.Clone(before)
			label.Metadata.Labels = map[string]string{"a": "b"}
			if err := authtest.As(t, nil, clusterImages+"UpdateClusterVirtualImage", update, func(ctx context.Context) error {
				return r.Admit(ctx, before, label)
			}); err != nil {
				t.Errorf("a label asks for the source's right: %v", err)
			}
		})
	}
}

func TestPullSecretOfANamespaceNeedsTheRightToReadIt(t *testing.T) {
	r := withRegistry(t)
	image := someImage()
	image.Spec.DataSource = &imagev1.DataSource{
		Type: imagev1.DataSourceType_ContainerImage,
		ContainerImage: &imagev1.ContainerImageSource{
			Image: "example.org/ubuntu", ImagePullSecret: &imagev1.ImagePullSecret{Name: "pull"},
		},
	}
	for want, rights := range map[fault.Class][]string{fault.None: {"get secrets default pull"}, fault.Denied: nil} {
		create := &imagev1.CreateClusterVirtualImageRequest{ClusterVirtualImage: clusterImage(nil)} // any that the guard lets in
		err := authtest.As(t, rights, clusterImages+"CreateClusterVirtualImage", create, func(ctx context.Context) error { return r.Admit(ctx, nil, image) })
		if got := fault.ClassOf(err); got != want {
			t.Errorf("with %v: class %v, want %v: %v", rights, got, want, err)
		}
	}
}
