package fault

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is the domain of the reasons that our services give.
const Domain = "orlop.dev"

// ToStatus is the edge out of a service: err as gRPC sends it, with ErrorInfo
// (the reason), BadRequest (the fields), PreconditionFailure and RetryInfo. What
// was wrapped is never sent. A status that is no fault of ours, from grpc itself
// for example, is first read by FromStatus. ToStatus(nil) is OK.
func ToStatus(err error) *status.Status {
	if err == nil {
		return status.New(codes.OK, "")
	}
	f := From(err)
	s := status.New(wireCode(f), f.Message)
	detailed, detailErr := s.WithDetails(details(f)...)
	if detailErr != nil {
		return s // only an unknown message type or code OK get here
	}
	return detailed
}

// GRPCStatus makes a fault a status to grpc too, so that a handler outside the
// interceptors still answers with the right code.
func (f *Fault) GRPCStatus() *status.Status { return ToStatus(f) }

// FromStatus is the edge into a caller: the fault that a remote service returned.
// Errors that carry no status are classified as From does. FromStatus(nil) is nil.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	return From(err)
}

// wireCode is the class's code, but for a caller that left or whose time is up:
// gRPC has codes for these, and metrics tell them from a service in trouble.
func wireCode(f *Fault) codes.Code {
	switch {
	case f.Class == Transient && f.Reason == ReasonCanceled:
		return codes.Canceled
	case f.Class == Transient && f.Reason == ReasonDeadlineExceeded:
		return codes.DeadlineExceeded
	case f.Class == None:
		return codes.Internal // an error is never OK
	}
	return f.Class.code()
}

func details(f *Fault) []protoadapt.MessageV1 {
	d := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: f.Reason, Domain: Domain}}
	if len(f.Fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range f.Fields {
			bad.FieldViolations = append(bad.FieldViolations,
				&errdetails.BadRequest_FieldViolation{Field: v.Path, Reason: v.Rule, Description: v.Message})
		}
		d = append(d, bad)
	}
	if f.Class == NotReady {
		d = append(d, &errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{
			{Type: f.Reason, Subject: Domain, Description: f.Message},
		}})
	}
	if f.RetryAfter > 0 {
		d = append(d, &errdetails.RetryInfo{RetryDelay: durationpb.New(f.RetryAfter)})
	}
	return d
}

// fromForeignStatus reads the status in err's chain, nil where there is none.
func fromForeignStatus(err error) *Fault {
	var carrier interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &carrier) {
		return nil
	}
	s := carrier.GRPCStatus()
	if s == nil || s.Code() == codes.OK {
		return nil
	}
	f := &Fault{Class: classOf(s.Code()), Reason: s.Code().String(), Message: s.Message(), cause: contextCause(s.Code())}
	for _, detail := range s.Details() {
		f.read(detail)
	}
	return f
}

func (f *Fault) read(detail any) {
	switch d := detail.(type) {
	case *errdetails.ErrorInfo:
		f.Reason = d.GetReason()
	case *errdetails.BadRequest:
		for _, v := range d.GetFieldViolations() {
			f.Fields = append(f.Fields, Field{Path: v.GetField(), Rule: v.GetReason(), Message: v.GetDescription()})
		}
	case *errdetails.RetryInfo:
		f.RetryAfter = d.GetRetryDelay().AsDuration()
	}
}

// contextCause lets errors.Is find the end of a context behind a remote call as
// it does behind a local one.
func contextCause(code codes.Code) error {
	switch code {
	case codes.Canceled:
		return context.Canceled
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	}
	return nil
}
