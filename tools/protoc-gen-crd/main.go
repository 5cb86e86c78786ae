// Command protoc-gen-crd turns each message that carries the resource option
// of orlop.schema.v1 into a Kubernetes CustomResourceDefinition.
//
// It owns the translation of protobuf types, comments, buf.validate limits and
// our own options into a structural schema, and it refuses what would not
// survive the trip between protobuf, JSON and Kubernetes. It knows no kind by
// name. It reads all options from the request itself and so needs no code
// generated from them: it can be built before anything was generated.
package main

import (
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "protoc-gen-crd:", err)
		os.Exit(1)
	}
}

// run answers one request of the compiler. What is wrong with the protos goes
// into the response, as the plugin protocol asks; the error returned is for
// requests that can't be read or answered at all.
func run(in io.Reader, out io.Writer) error {
	raw, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	request := new(pluginpb.CodeGeneratorRequest)
	if err := proto.Unmarshal(raw, request); err != nil {
		return fmt.Errorf("decoding the request: %w", err)
	}
	answer, err := proto.Marshal(respond(request))
	if err != nil {
		return fmt.Errorf("encoding the response: %w", err)
	}
	_, err = out.Write(answer)
	return err
}

func respond(request *pluginpb.CodeGeneratorRequest) *pluginpb.CodeGeneratorResponse {
	response := &pluginpb.CodeGeneratorResponse{
		SupportedFeatures: proto.Uint64(uint64(pluginpb.CodeGeneratorResponse_FEATURE_PROTO3_OPTIONAL)),
	}
	set := &descriptorpb.FileDescriptorSet{File: request.GetProtoFile()}
	files, err := generate(set, request.GetFileToGenerate())
	if err != nil {
		response.Error = proto.String(err.Error())
		return response
	}
	for _, f := range files {
		response.File = append(response.File, &pluginpb.CodeGeneratorResponse_File{
			Name:    proto.String(f.name),
			Content: proto.String(f.content),
		})
	}
	return response
}
