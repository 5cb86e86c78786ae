package tokenfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"orlop.dev/kit/auth"
	"orlop.dev/kit/auth/tokenfile"
	"orlop.dev/kit/fault"
)

func TestParseReadsKubernetesForm(t *testing.T) {
	f, err := tokenfile.Parse(strings.NewReader("# people\nsecret,alice,42,\"dev, ops\"\nother,bob,43\n"))
	if err != nil {
		t.Fatal(err)
	}
	u, err := f.Authenticate(t.Context(), "secret")
	if err != nil || u.Name != "alice" || u.UID != "42" || !slices.Equal(u.Groups, []string{"dev", "ops"}) || u.Internal {
		t.Fatalf("got %+v, %v", u, err)
	}
	if u, err = f.Authenticate(t.Context(), "other"); err != nil || u.Name != "bob" || len(u.Groups) != 0 {
		t.Fatalf("got %+v, %v", u, err)
	}
	for _, unknown := range []string{"", "secre", "secret "} {
		if _, err := f.Authenticate(t.Context(), unknown); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("token %q: got %v", unknown, err)
		}
	}
}

func TestParseRefusesWhatIsNoTokenAndKeepsItSecret(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"two columns": {"hush,alice\n", tokenfile.ErrColumns},
		"no token":    {",alice,1\n", tokenfile.ErrColumns},
		"no name":     {"hush,,1\n", tokenfile.ErrColumns},
		"twice":       {"hush,alice,1\nhush,bob,2\n", tokenfile.ErrDuplicate},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tokenfile.Parse(strings.NewReader(c.text))
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Fatalf("the error tells the token: %v", err)
			}
		})
	}
}

func TestLoadRefusesAFileThatOthersCanRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte("secret,alice,1\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	_, err := tokenfile.Load(path)
	if permission := (*tokenfile.PermissionError)(nil); !errors.As(err, &permission) {
		t.Fatalf("got %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tokenfile.Load(path); err != nil {
		t.Fatal(err)
	}
}

func TestEnsureWritesOnceAndForTheOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	admin := auth.User{Name: "admin", UID: "1", Groups: []string{tokenfile.Masters, "dev"}}
	token, err := tokenfile.Ensure(path, admin)
	if err != nil {
		t.Fatal(err)
	}
	again, err := tokenfile.Ensure(path, auth.User{Name: "admin"})
	if err != nil || again != token {
		t.Fatalf("the second call gave %q, %v; the first %q", again, err, token)
	}
	f, err := tokenfile.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	u, err := f.Authenticate(t.Context(), token)
	if err != nil || u.Name != admin.Name || !slices.Equal(u.Groups, admin.Groups) {
		t.Fatalf("got %+v, %v", u, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) != 1 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestEnsureWantsTheUserItWasAskedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	if _, err := tokenfile.Ensure(path, auth.User{Name: "admin"}); err != nil {
		t.Fatal(err)
	}
	if _, err := tokenfile.Ensure(path, auth.User{Name: "other"}); !errors.Is(err, tokenfile.ErrNoUser) {
		t.Fatalf("got %v", err)
	}
}
