package vm_test

import (
	"context"
	"fmt"
	"os"
	"testing"
)

// TestMain is also a vm service in a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv(storeVariable) == "" {
		os.Exit(m.Run())
	}
	if err := serveAlone(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
