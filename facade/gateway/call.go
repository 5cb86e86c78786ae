package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"orlop.dev/gen/rest"
	"orlop.dev/kit/fault"
)

// Fields of requests that HTTP has headers for.
const (
	fieldRequestID = protoreflect.Name("request_id")
	fieldETag      = protoreflect.Name("etag")
)

// route is a verb and a path template, as the proto writes it.
type route struct{ verb, path string }

// call is the method that a route leads to.
type call struct {
	method protoreflect.MethodDescriptor
	// body is the message in the body, nil where there is none.
	body protoreflect.MessageDescriptor
	// bodyField is the field that the body is; empty for the whole request.
	bodyField protoreflect.Name
}

// calls are the methods by their routes.
type calls map[route]call

func newCalls(handlers []rest.Handler) (calls, error) {
	all := calls{}
	for _, handler := range handlers {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(handler.Service))
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", handler.Service, err)
		}
		service, ok := found.(protoreflect.ServiceDescriptor)
		if !ok {
			return nil, fmt.Errorf("%s is no service", handler.Service)
		}
		for i := range service.Methods().Len() {
			all.add(service.Methods().Get(i))
		}
	}
	return all, nil
}

func (c calls) add(method protoreflect.MethodDescriptor) {
	rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	for _, binding := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
		target := call{method: method}
		switch name := binding.GetBody(); name {
		case "":
		case "*":
			target.body = method.Input()
		default:
			target.bodyField = protoreflect.Name(name)
			target.body = method.Input().Fields().ByName(target.bodyField).Message()
		}
		for _, r := range routesOf(binding) {
			c[r] = target
		}
	}
}

func routesOf(rule *annotations.HttpRule) []route {
	var routes []route
	for verb, path := range map[string]string{
		http.MethodGet: rule.GetGet(), http.MethodPut: rule.GetPut(), http.MethodPost: rule.GetPost(),
		http.MethodDelete: rule.GetDelete(), http.MethodPatch: rule.GetPatch(),
	} {
		if path != "" {
			routes = append(routes, route{verb, path})
		}
	}
	return routes
}

// of returns the call that a routed request is.
func (c calls) of(r *http.Request) (call, bool) {
	pattern, _ := runtime.HTTPPattern(r.Context())
	found, known := c[route{r.Method, strings.ReplaceAll(pattern.String(), "=*}", "}")}]
	return found, known
}

// prepare judges query and body before grpc-gateway reads them, which would
// ignore a misspelt parameter and keep of a fault its text alone. It also says
// in the request's own words what HTTP says in headers.
func (c calls) prepare(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		target, known := c.of(r)
		if !known {
			writeFault(w, fault.New(fault.Internal, "RouteUnknown", "%s %s leads nowhere", r.Method, r.URL.Path))
			return
		}
		query, err := target.query(r, path)
		if err != nil {
			writeError(w, err)
			return
		}
		if target.body != nil {
			if err := target.readBody(w, r); err != nil {
				writeError(w, err)
				return
			}
		}
		r.URL.RawQuery = query.Encode()
		next(w, r, path)
	}
}

// endStreamsWith ends streams, which have no end of their own, when ctx ends.
func (c calls) endStreamsWith(ctx context.Context) runtime.Middleware {
	return func(next runtime.HandlerFunc) runtime.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
			if target, known := c.of(r); !known || !target.method.IsStreamingServer() {
				next(w, r, path)
				return
			}
			streaming, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			next(w, r.WithContext(streaming), path)
		}
	}
}

// query returns the parameters of a request: those of its URL, and those that
// its headers stand for.
func (c call) query(r *http.Request, path map[string]string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, fault.ReasonInvalid, "the query can't be read")
	}
	for name := range query {
		if !c.takes(name, path) {
			return nil, fault.Refuse(name, "FieldUnknown", "no parameter of %s", c.method.Name())
		}
	}
	fields := c.method.Input().Fields()
	if key := r.Header.Get("Idempotency-Key"); key != "" && fields.ByName(fieldRequestID) != nil {
		query.Set(string(fieldRequestID), key)
		query.Del(fields.ByName(fieldRequestID).JSONName())
	}
	if version := wantedVersion(r); version != "" && fields.ByName(fieldETag) != nil {
		query.Set(string(fieldETag), version)
	}
	return query, nil
}

// takes reports whether a name is one of the call's parameters.
func (c call) takes(name string, path map[string]string) bool {
	fields := c.method.Input().Fields()
	field := fields.ByName(protoreflect.Name(name))
	if field == nil {
		field = fields.ByJSONName(name)
	}
	if field == nil || c.body != nil && (c.bodyField == "" || field.Name() == c.bodyField) {
		return false
	}
	_, inPath := path[string(field.Name())]
	return !inPath
}
