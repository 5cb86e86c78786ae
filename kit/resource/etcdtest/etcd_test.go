package etcdtest_test

import (
	"testing"

	"orlop.dev/kit/resource/etcdtest"
)

func TestStartedServerKeepsAValue(t *testing.T) {
	client := etcdtest.Start(t)
	if _, err := client.Put(t.Context(), "key", "value"); err != nil {
		t.Fatal(err)
	}
	got, err := client.Get(t.Context(), "key")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "value" {
		t.Fatalf("got %v, want the value", got.Kvs)
	}
}
