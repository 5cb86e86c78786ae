package main

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	apiProtos = "../../proto"
	toyProto  = "toy/v1/toy.proto"
)

// compile compiles the named files as buf does, with the repository's protos,
// the vendored ones and testdata on the import path. Files in written take
// precedence over those on disk.
func compile(t *testing.T, written map[string]string, names ...string) *descriptorpb.FileDescriptorSet {
	t.Helper()
	compiler := protocompile.Compiler{
		SourceInfoMode: protocompile.SourceInfoStandard,
		Resolver: protocompile.WithStandardImports(protocompile.CompositeResolver{
			&protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(written)},
			&protocompile.SourceResolver{ImportPaths: []string{
				"testdata", apiProtos, "../../third_party/googleapis", "../../third_party/protovalidate",
			}},
		}),
	}
	files, err := compiler.Compile(t.Context(), names...)
	if err != nil {
		t.Fatalf("compiling %v: %v", names, err)
	}
	return closure(files)
}

// closure is the set of files and all that they import, imports first, in
// which order a plugin gets them.
func closure(files linker.Files) *descriptorpb.FileDescriptorSet {
	set := new(descriptorpb.FileDescriptorSet)
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(d protoreflect.FileDescriptor) {
		if seen[d.Path()] {
			return
		}
		seen[d.Path()] = true
		for i := range d.Imports().Len() {
			add(d.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(d))
	}
	for _, f := range files {
		add(f)
	}
	return set
}

// apiFiles lists the protos of the API itself.
func apiFiles(t *testing.T) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(apiProtos, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".proto") {
			name, _ := filepath.Rel(apiProtos, path)
			names = append(names, filepath.ToSlash(name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// definitions generates from the named files and returns the definitions by
// file name.
func definitions(t *testing.T, names ...string) map[string]string {
	t.Helper()
	files, err := generate(compile(t, nil, names...), names)
	if err != nil {
		t.Fatalf("generating from %v:\n%v", names, err)
	}
	byName := map[string]string{}
	for _, f := range files {
		byName[f.name] = f.content
	}
	return byName
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
