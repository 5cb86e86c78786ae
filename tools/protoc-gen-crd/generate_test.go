package main

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/pluginpb"
	"sigs.k8s.io/yaml"
)

const toyFile = "toys.example.test_toys.yaml"

func TestDefinitionIsTheGoldenOne(t *testing.T) {
	const golden = "testdata/toys.golden.yaml"
	got := definitions(t, toyProto)[toyFile]
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := readFile(t, golden); got != want {
		t.Errorf("the definition changed; if that is meant, run go test -update.\ngot:\n%s", got)
	}
}

func TestSameProtosGiveTheSameBytes(t *testing.T) {
	first, second := definitions(t, toyProto), definitions(t, toyProto)
	if !maps.Equal(first, second) {
		t.Error("two runs differ")
	}
}

func TestPackageEmbedsTheDefinitions(t *testing.T) {
	files := definitions(t, toyProto)
	if want := []string{"crd.go", toyFile}; !slices.Equal(slices.Sorted(maps.Keys(files)), want) {
		t.Errorf("files: got %v, want %v", slices.Sorted(maps.Keys(files)), want)
	}
}

func TestFilesWithoutKindsGiveNothing(t *testing.T) {
	if files := definitions(t, "orlop/meta/v1/meta.proto"); len(files) > 0 {
		t.Errorf("got %v", slices.Sorted(maps.Keys(files)))
	}
}

// The plugin speaks the compiler's protocol: what is wrong with the protos
// goes into the response, and the process itself succeeds.
func TestPluginProtocol(t *testing.T) {
	broken := map[string]string{"broken.proto": kindWith("int64 size = 1;", "")}
	for name, test := range map[string]struct {
		written map[string]string
		file    string
		refused bool
	}{
		"sound":  {file: toyProto},
		"broken": {written: broken, file: "broken.proto", refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			set := compile(t, test.written, test.file)
			request, err := proto.Marshal(&pluginpb.CodeGeneratorRequest{
				FileToGenerate: []string{test.file}, ProtoFile: set.File,
			})
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := run(bytes.NewReader(request), &out); err != nil {
				t.Fatal(err)
			}
			var response pluginpb.CodeGeneratorResponse
			if err := proto.Unmarshal(out.Bytes(), &response); err != nil {
				t.Fatal(err)
			}
			if refused := response.GetError() != ""; refused != test.refused {
				t.Errorf("refused: got %v (%s), want %v", refused, response.GetError(), test.refused)
			}
			if files := len(response.GetFile()); (files == 0) != test.refused {
				t.Errorf("%d files", files)
			}
		})
	}
}

// The facade stops syncing where the hashes differ, so they must differ when
// the shape does, and only then.
func TestHashFollowsTheShapeAlone(t *testing.T) {
	source := readFile(t, "testdata/"+toyProto)
	was := hashOf(t, source)
	for name, test := range map[string]struct {
		old, new string
		same     bool
	}{
		"a comment": {old: "// How it moves.", new: "// Ways of moving.", same: true},
		"a limit":   {old: "int32.lte = 18", new: "int32.lte = 19"},
		"a field":   {old: "string fuel = 1;", new: "string fuel = 1; string description = 2;"},
		"a default": {old: `default = "60"`, new: `default = "61"`},
	} {
		t.Run(name, func(t *testing.T) {
			if is := hashOf(t, strings.Replace(source, test.old, test.new, 1)); (is == was) != test.same {
				t.Errorf("hash was %s, is %s", was, is)
			}
		})
	}
}

func hashOf(t *testing.T, source string) string {
	t.Helper()
	const name = "changed.proto"
	files, err := generate(compile(t, map[string]string{name: source}, name), []string{name})
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Metadata struct{ Annotations map[string]string }
	}
	if err := yaml.Unmarshal([]byte(files[0].content), &document); err != nil {
		t.Fatal(err)
	}
	return document.Metadata.Annotations[hashAnnotation]
}
