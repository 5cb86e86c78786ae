package intake_test

import (
	"testing"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
	"orlop.dev/services/image/internal/intake"
	"orlop.dev/services/image/internal/job"
)

// begin is an intake on a real registry, whose imports don't run.
func begin(t *testing.T) *intake.Intake {
	t.Helper()
	registry := dvcrtest.Start(t, dvcrtest.Options{})
	client := registry.Client(t)
	pool, err := job.New(job.Options{Registry: client, StagingDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return &intake.Intake{
		Imports: pool, Registry: intake.Registry{Registry: client, Host: registry.Options.Endpoint, Prefix: "team/"},
		Origins: intake.Sources{},
	}
}

func wish(version int32) intake.Wish {
	return intake.Wish{
		UID: "uid", Version: version, Repository: "vi/default/ubuntu", Changed: func() {},
		Source: &imagev1.DataSource{Type: imagev1.DataSourceType_HTTP, Http: &imagev1.HTTPSource{Url: "http://127.0.0.1/"}},
	}
}

// publishes puts some disk into the registry as what is wished for.
func publishes(t *testing.T, i *intake.Intake, w intake.Wish) {
	t.Helper()
	repository, err := i.Registry.Repository(i.Registry.Prefix + w.Repository)
	if err != nil {
		t.Fatal(err)
	}
	upload, err := repository.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	blob, err := upload.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repository.Push(t.Context(), w.UID, dvcr.Artifact{Disk: blob, Format: "qcow2"}); err != nil {
		t.Fatal(err)
	}
}

// The race: an import publishes at the moment when its wish is changed.
func TestWhatAnEarlierVersionPublishedIsNotTheFile(t *testing.T) {
	i := begin(t)
	first, second := wish(1), wish(2)
	if err := i.Imports.Mark(t.Context(), job.Task{UID: first.UID, Version: first.Version, Repository: first.Repository}); err != nil {
		t.Fatal(err)
	}
	publishes(t, i, first)
	if found, err := i.Current(t.Context(), first); err != nil || found == nil {
		t.Fatalf("found %v, %v", found, err)
	}
	if found, err := i.Current(t.Context(), second); err != nil || found != nil {
		t.Errorf("the first version's file passes for the second's: %v, %v", found, err)
	}
	if o, err := i.Step(t.Context(), second); err != nil || o.Published != nil || o.Job == nil {
		t.Errorf("observed %+v, %v; want an import that begins", o, err)
	}
	if found, err := i.Find(t.Context(), second); err != nil || found != nil {
		t.Errorf("the first version's file is still there: %v, %v", found, err)
	}
}
