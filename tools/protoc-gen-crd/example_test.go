package main

import (
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
)

const group = "virtualization.deckhouse.io/"

// The examples must be legal as they stand, with no field that the schema
// doesn't know (kubectl's --validate=strict).
func TestExamplesAreLegal(t *testing.T) {
	judges := apiJudges(t)
	seen := 0
	for _, path := range exampleFiles(t) {
		for i, manifest := range strings.Split("\n"+readFile(t, path), "\n---\n") {
			if !strings.Contains(manifest, "apiVersion: "+group) {
				continue
			}
			seen++
			t.Run(fmt.Sprintf("%s#%d", filepath.Base(path), i), func(t *testing.T) {
				judgeExample(t, judges, manifest)
			})
		}
	}
	if seen == 0 {
		t.Skip("there are no examples of these kinds yet")
	}
}

func judgeExample(t *testing.T, judges map[string]judge, manifest string) {
	t.Helper()
	object := judge{structural: new(structural.Structural)}.read(t, manifest)
	j, known := judges[object["kind"].(string)]
	if !known {
		t.Fatalf("no such kind: %v", object["kind"])
	}
	object = j.read(t, manifest)
	unknown := pruning.PruneWithOptions(maps.Clone(object), j.structural, true,
		structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	if len(unknown) > 0 {
		t.Errorf("unknown fields: %v", unknown)
	}
	if refusals := j.refusals(t, object, nil); len(refusals) > 0 {
		t.Errorf("refused: %v", refusals)
	}
}

func exampleFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir("../../examples", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".yaml") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(slices.Values(files))
}
