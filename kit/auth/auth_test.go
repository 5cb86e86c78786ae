package auth_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"

	"orlop.dev/kit/auth"
	"orlop.dev/kit/auth/tokenfile"
	"orlop.dev/kit/fault"
)

const users = `root-token,root,1,"system:masters"
view-token,vera,2,"view,others"
alice-token,alice,3
`

// grants allows what it lists, to anybody.
type grants []auth.Attributes

func (g grants) Authorize(_ context.Context, _ auth.User, a auth.Attributes) (auth.Decision, error) {
	return auth.Decision{Allowed: slices.Contains(g, a)}, nil
}

func tokens(t *testing.T) *tokenfile.File {
	t.Helper()
	f, err := tokenfile.Parse(strings.NewReader(users))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const group = "virtualization.deckhouse.io"

func right(verb, namespace, name string) auth.Attributes {
	return auth.Attributes{Verb: verb, Group: group, Resource: "virtualdisks", Namespace: namespace, Name: name}
}

func disk(namespace, name string) *diskv1.VirtualDisk {
	return &diskv1.VirtualDisk{Metadata: &metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

// ask makes one call and returns its error.
type ask func(ctx context.Context, c *grpc.ClientConn) error

func create(req *diskv1.CreateVirtualDiskRequest) ask {
	return func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := diskv1.NewVirtualDiskServiceClient(c).CreateVirtualDisk(ctx, req)
		return err
	}
}

func update(req *diskv1.UpdateVirtualDiskRequest) ask {
	return func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := diskv1.NewVirtualDiskServiceClient(c).UpdateVirtualDisk(ctx, req)
		return err
	}
}

func get(namespace, name string) ask {
	return func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := diskv1.NewVirtualDiskServiceClient(c).GetVirtualDisk(ctx, &metav1.GetRequest{Namespace: namespace, Name: name})
		return err
	}
}

func list(namespace string) ask {
	return func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := diskv1.NewVirtualDiskServiceClient(c).ListVirtualDisks(ctx, &metav1.ListRequest{Namespace: namespace})
		return err
	}
}

func watch(namespace string) ask {
	return func(ctx context.Context, c *grpc.ClientConn) error {
		s, err := diskv1.NewVirtualDiskServiceClient(c).WatchVirtualDisks(ctx, &metav1.WatchRequest{Namespace: namespace})
		if err != nil {
			return err
		}
		_, err = s.Recv()
		return err
	}
}

func claim(ctx context.Context, c *grpc.ClientConn) error {
	_, err := diskv1.NewVirtualDiskServiceClient(c).ClaimVirtualDisk(ctx, &metav1.ClaimRequest{Namespace: "a", Name: "d"})
	return err
}

func storageClasses(ctx context.Context, c *grpc.ClientConn) error {
	_, err := diskv1.NewStorageClassServiceClient(c).ListStorageClasses(ctx, &diskv1.ListStorageClassesRequest{})
	return err
}

func checkHealth(ctx context.Context, c *grpc.ClientConn) error {
	_, err := grpc_health_v1.NewHealthClient(c).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	return err
}

func reflectServices(ctx context.Context, c *grpc.ClientConn) error {
	s, err := reflectionv1.NewServerReflectionClient(c).ServerReflectionInfo(ctx)
	if err != nil {
		return err
	}
	if err := s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil && !errors.Is(err, io.EOF) { // EOF: what ended the stream is what Recv says
		return err
	}
	_, err = s.Recv()
	return err
}

func getUpload(ctx context.Context, c *grpc.ClientConn) error {
	_, err := imagev1.NewUploadServiceClient(c).GetUpload(ctx, &imagev1.GetUploadRequest{Token: "t"})
	return err
}

func strange(ctx context.Context, c *grpc.ClientConn) error {
	return c.Invoke(ctx, "/strange.Service/Do", &metav1.GetRequest{}, &metav1.ReleaseResponse{})
}

func console(ctx context.Context, c *grpc.ClientConn) error {
	s, err := vmv1.NewVirtualMachineServiceClient(c).AttachConsole(ctx)
	if err != nil {
		return err
	}
	if err := s.Send(&vmv1.AttachConsoleRequest{Namespace: "a", Name: "vm"}); err != nil && !errors.Is(err, io.EOF) { // EOF: what ended the stream is what Recv says
		return err
	}
	_, err = s.Recv()
	return err
}

func connect(ctx context.Context, c *grpc.ClientConn) error {
	s, err := networkv1.NewVirtualMachineIPAddressServiceClient(c).Connect(ctx)
	if err != nil {
		return err
	}
	if err := s.Send(&networkv1.ConnectRequest{Namespace: "a", VirtualMachineName: "vm", Port: 22}); err != nil && !errors.Is(err, io.EOF) { // EOF: what ended the stream is what Recv says
		return err
	}
	_, err = s.Recv()
	return err
}

func TestOneMayDoWhatIsGranted(t *testing.T) {
	subresource := func(name string) auth.Attributes {
		return auth.Attributes{Verb: "get", Group: "subresources." + group, Resource: "virtualmachines", Subresource: name, Namespace: "a", Name: "vm"}
	}
	both := &diskv1.UpdateVirtualDiskRequest{Namespace: "a", Name: "d", VirtualDisk: disk("", ""), AllowMissing: true}
	for name, c := range map[string]struct {
		granted grants
		ask     ask
		want    fault.Class
	}{
		"create where granted":                     {grants{right("create", "a", "")}, create(&diskv1.CreateVirtualDiskRequest{Namespace: "a", VirtualDisk: disk("", "d")}), fault.None},
		"create, namespace in the object":          {grants{right("create", "a", "")}, create(&diskv1.CreateVirtualDiskRequest{VirtualDisk: disk("a", "d")}), fault.None},
		"create in another namespace":              {grants{right("create", "a", "")}, create(&diskv1.CreateVirtualDiskRequest{Namespace: "b", VirtualDisk: disk("", "d")}), fault.Denied},
		"create, namespaces differ":                {grants{right("create", "a", "")}, create(&diskv1.CreateVirtualDiskRequest{Namespace: "a", VirtualDisk: disk("b", "d")}), fault.Invalid},
		"create without a namespace":               {grants{right("create", "", "")}, create(&diskv1.CreateVirtualDiskRequest{VirtualDisk: disk("", "d")}), fault.Invalid},
		"get by name":                              {grants{right("get", "a", "d")}, get("a", "d"), fault.None},
		"get another name":                         {grants{right("get", "a", "d")}, get("a", "e"), fault.Denied},
		"get without a name":                       {grants{right("get", "a", "")}, get("a", ""), fault.Invalid},
		"get without a namespace":                  {grants{right("get", "", "d")}, get("", "d"), fault.Invalid},
		"list a namespace":                         {grants{right("list", "a", "")}, list("a"), fault.None},
		"list all with the right to one namespace": {grants{right("list", "a", "")}, list(""), fault.Denied},
		"list all":                                 {grants{right("list", "", "")}, list(""), fault.None},
		"watch a namespace":                        {grants{right("watch", "a", "")}, watch("a"), fault.None},
		"watch all with the right to list":         {grants{right("list", "", "")}, watch(""), fault.Denied},
		"update":                                   {grants{right("update", "a", "d")}, update(&diskv1.UpdateVirtualDiskRequest{VirtualDisk: disk("a", "d")}), fault.None},
		"update, names differ":                     {grants{right("update", "a", "d")}, update(&diskv1.UpdateVirtualDiskRequest{Namespace: "a", Name: "d", VirtualDisk: disk("a", "e")}), fault.Invalid},
		"update or create with update alone":       {grants{right("update", "a", "d")}, update(both), fault.Denied},
		"update or create with both":               {grants{right("update", "a", "d"), right("create", "a", "")}, update(both), fault.None},
		"claim is for services":                    {grants{right("claim", "a", "d")}, claim, fault.Denied},
		"storage classes are for every user":       {nil, storageClasses, fault.None},
		"reflection is for every user":             {nil, reflectServices, fault.None},
		"a method without a rule":                  {nil, strange, fault.Denied},
		"console with its subresource":             {grants{subresource("console")}, console, fault.None},
		"console with another subresource":         {grants{subresource("portforward")}, console, fault.Denied},
		"connect needs the right to the VM":        {grants{subresource("portforward")}, connect, fault.None},
		"connect without it":                       {nil, connect, fault.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			d := openDoor(t, tokens(t), c.granted)
			err := c.ask(t.Context(), d.dial("alice-token", ""))
			if got := fault.ClassOf(err); got != c.want {
				t.Fatalf("class %v, want %v: %v", got, c.want, err)
			}
		})
	}
}

func TestWithoutCredentialThereAreHealthAndWhatJudgesItselfAlone(t *testing.T) {
	d := openDoor(t, tokens(t), tokenfile.Rights{})
	for name, c := range map[string]struct {
		ask  ask
		want fault.Class
	}{
		"health":          {checkHealth, fault.None},
		"own credential":  {getUpload, fault.None},
		"reflection":      {reflectServices, fault.Unauthenticated},
		"storage classes": {storageClasses, fault.Unauthenticated},
		"get":             {get("a", "d"), fault.Unauthenticated},
		"watch":           {watch("a"), fault.Unauthenticated},
		"claim":           {claim, fault.Unauthenticated},
		"no rule":         {strange, fault.Unauthenticated},
	} {
		for _, token := range []string{"", "wrong"} {
			err := c.ask(t.Context(), d.dial(token, ""))
			if got := fault.ClassOf(err); got != c.want {
				t.Errorf("%s with token %q: class %v, want %v: %v", name, token, got, c.want, err)
			}
		}
	}
}

func TestCredentialsThatAreNoBearerTokenAreRefused(t *testing.T) {
	d := openDoor(t, tokens(t), tokenfile.Rights{})
	for name, values := range map[string][]string{
		"basic":      {"Basic cm9vdDpyb290"},
		"no scheme":  {"root-token"},
		"empty":      {"Bearer "},
		"two tokens": {"Bearer root-token", "Bearer root-token"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{"authorization": values})
			if err := get("a", "d")(ctx, d.dial("", "")); !fault.Is(err, fault.Unauthenticated) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestAServiceIsKnownByItsCertificate(t *testing.T) {
	d := openDoor(t, tokens(t), grants{})
	if err := claim(t.Context(), d.dial("", "vm")); err != nil {
		t.Fatal(err)
	}
	if got := d.disks.caller; got.Name != "system:orlop:vm" || !got.Internal {
		t.Fatalf("caller is %+v", got)
	}
	if err := get("a", "d")(t.Context(), d.dial("", "vm")); err != nil {
		t.Fatalf("a service may do everything: %v", err)
	}
}

func TestATokenWinsOverTheCertificateOfWhoPassesItOn(t *testing.T) {
	d := openDoor(t, tokens(t), grants{})
	if err := get("a", "d")(t.Context(), d.dial("alice-token", "gateway")); !fault.Is(err, fault.Denied) {
		t.Fatalf("got %v", err)
	}
	if err := claim(t.Context(), d.dial("root-token", "gateway")); !fault.Is(err, fault.Denied) {
		t.Fatalf("got %v", err)
	}
}

func TestACertificateOfAnotherAuthorityIsRefused(t *testing.T) {
	d := openDoor(t, tokens(t), grants{})
	pair, err := openAuthority(t).Service("vm")
	if err != nil {
		t.Fatal(err)
	}
	conn := d.connect([]tls.Certificate{tlsPair(t, pair)})
	if err := claim(t.Context(), conn); err == nil {
		t.Fatal("a stranger's certificate was accepted")
	}
	if d.disks.caller.Name != "" {
		t.Fatalf("the handler ran for %+v", d.disks.caller)
	}
}

func TestAServiceAsksForAnotherUserInValidateOnlyCallsAlone(t *testing.T) {
	webhook := func(validate bool) ask {
		return create(&diskv1.CreateVirtualDiskRequest{Namespace: "a", VirtualDisk: disk("", "d"), ValidateOnly: validate})
	}
	bob := auth.User{Name: "bob ü", UID: "7", Groups: []string{"g,1", "g2"}}
	d := openDoor(t, tokens(t), grants{right("create", "a", "")})

	if err := webhook(true)(auth.OnBehalfOf(t.Context(), bob), d.dial("", "facade")); err != nil {
		t.Fatal(err)
	}
	if got := d.disks.caller; got.Name != bob.Name || got.UID != bob.UID || !slices.Equal(got.Groups, bob.Groups) || got.Internal {
		t.Fatalf("caller is %+v, want %+v", got, bob)
	}
	if err := webhook(false)(auth.OnBehalfOf(t.Context(), bob), d.dial("", "facade")); !fault.Is(err, fault.Denied) {
		t.Fatalf("a changing call: got %v", err)
	}
	if err := webhook(true)(auth.OnBehalfOf(t.Context(), bob), d.dial("alice-token", "")); !fault.Is(err, fault.Denied) {
		t.Fatalf("a person: got %v", err)
	}
}

func TestAStreamCannotTurnToAnotherObject(t *testing.T) {
	d := openDoor(t, tokens(t), tokenfile.Rights{})
	s, err := vmv1.NewVirtualMachineServiceClient(d.dial("root-token", "")).AttachConsole(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	say := func(req *vmv1.AttachConsoleRequest) error {
		if err := s.Send(req); err != nil {
			return err
		}
		_, err := s.Recv()
		return err
	}
	for _, req := range []*vmv1.AttachConsoleRequest{
		{Namespace: "a", Name: "vm"}, {Input: []byte("ls")}, {Namespace: "a", Name: "vm", Input: []byte("ls")},
	} {
		if err := say(req); err != nil {
			t.Fatal(err)
		}
	}
	if err := say(&vmv1.AttachConsoleRequest{Name: "other"}); !fault.Is(err, fault.Denied) {
		t.Fatalf("got %v", err)
	}
}

func TestADenialSpeaksAsKubernetesDoes(t *testing.T) {
	d := openDoor(t, tokens(t), grants{})
	err := create(&diskv1.CreateVirtualDiskRequest{Namespace: "a", VirtualDisk: disk("", "d")})(t.Context(), d.dial("alice-token", ""))
	const want = `virtualdisks.virtualization.deckhouse.io is forbidden: User "alice" cannot create resource "virtualdisks" ` +
		`in API group "virtualization.deckhouse.io" in the namespace "a"`
	if f := fault.From(err); f.Message != want || f.Reason != auth.ReasonForbidden {
		t.Fatalf("got %s: %s", f.Reason, f.Message)
	}
}

func TestRightsOfTheTokenFile(t *testing.T) {
	d := openDoor(t, tokens(t), tokenfile.Rights{})
	for _, c := range []struct {
		token string
		name  string
		ask   ask
		want  fault.Class
	}{
		{"root-token", "create", create(&diskv1.CreateVirtualDiskRequest{Namespace: "a", VirtualDisk: disk("", "d")}), fault.None},
		{"root-token", "console", console, fault.None},
		{"view-token", "list", list(""), fault.None},
		{"view-token", "watch", watch("a"), fault.None},
		{"view-token", "create", create(&diskv1.CreateVirtualDiskRequest{Namespace: "a", VirtualDisk: disk("", "d")}), fault.Denied},
		{"view-token", "console", console, fault.Denied},
		{"alice-token", "get", get("a", "d"), fault.Denied},
	} {
		err := c.ask(t.Context(), d.dial(c.token, ""))
		if got := fault.ClassOf(err); got != c.want {
			t.Errorf("%s %s: class %v, want %v: %v", c.token, c.name, got, c.want, err)
		}
	}
}

func TestAdmissionAsksForTheRightOfWhoCalls(t *testing.T) {
	secret := auth.Attributes{Verb: "get", Resource: "secrets", Namespace: "a", Name: "pull"}
	d := openDoor(t, tokens(t), grants{right("create", "a", ""), secret})
	d.disks.needs = &secret
	made := create(&diskv1.CreateVirtualDiskRequest{Namespace: "a", VirtualDisk: disk("", "d"), ValidateOnly: true})
	if err := made(t.Context(), d.dial("alice-token", "")); err != nil {
		t.Fatalf("a right that was granted: %v", err)
	}
	d.disks.needs = &auth.Attributes{Verb: "get", Resource: "secrets", Namespace: "b", Name: "pull"}
	err := made(t.Context(), d.dial("alice-token", ""))
	const want = `secrets "pull" is forbidden: User "alice" cannot get resource "secrets" in API group "" in the namespace "b"`
	if !fault.Is(err, fault.Denied) || fault.From(err).Message != want {
		t.Errorf("a right that wasn't: %v", err)
	}
	if err := made(t.Context(), d.dial("", "facade")); err != nil {
		t.Errorf("a service may do everything: %v", err)
	}
	bob := auth.OnBehalfOf(t.Context(), auth.User{Name: "bob"})
	if err := made(bob, d.dial("", "facade")); !fault.Is(err, fault.Denied) {
		t.Errorf("a service that asks for somebody: %v", err)
	}
	if err := auth.RequireOfCaller(t.Context(), secret); err != nil {
		t.Errorf("a call that no guard has seen: %v", err)
	}
}
