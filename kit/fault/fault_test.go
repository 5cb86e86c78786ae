package fault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"orlop.dev/kit/fault"
)

func TestFaultSurvivesTheWire(t *testing.T) {
	cases := []struct {
		class fault.Class
		code  codes.Code
		http  int
	}{
		{fault.Invalid, codes.InvalidArgument, http.StatusBadRequest},
		{fault.Unauthenticated, codes.Unauthenticated, http.StatusUnauthorized},
		{fault.Denied, codes.PermissionDenied, http.StatusForbidden},
		{fault.Exists, codes.AlreadyExists, http.StatusConflict},
		{fault.NotReady, codes.FailedPrecondition, http.StatusBadRequest},
		{fault.NotFound, codes.NotFound, http.StatusNotFound},
		{fault.Exhausted, codes.ResourceExhausted, http.StatusTooManyRequests},
		{fault.Stale, codes.Aborted, http.StatusConflict},
		{fault.Transient, codes.Unavailable, http.StatusServiceUnavailable},
		{fault.Internal, codes.Internal, http.StatusInternalServerError},
	}
	for _, c := range cases {
		t.Run(c.class.String(), func(t *testing.T) {
			sent := fault.New(c.class, "SomeReason", "a %s", "message").
				WithField("spec.size", "FieldValueRequired", "Required value").WithRetryAfter(3 * time.Second)
			s := fault.ToStatus(fmt.Errorf("while working: %w", sent))
			if s.Code() != c.code || c.class.HTTPStatus() != c.http {
				t.Errorf("code %s and %d, want %s and %d", s.Code(), c.class.HTTPStatus(), c.code, c.http)
			}
			got := fault.From(fault.FromStatus(s.Err()))
			if !reflect.DeepEqual(got, sent) {
				t.Errorf("got %+v, want %+v", got, sent)
			}
			if !errors.Is(got, &fault.Fault{Class: c.class, Reason: "SomeReason"}) {
				t.Error("the remote fault is not the local one to errors.Is")
			}
		})
	}
}

func TestUnclassifiedErrorTellsNothing(t *testing.T) {
	secret := errors.New("password is swordfish")
	for _, err := range []error{secret, fault.Wrap(secret, fault.Internal, "Broken", "something broke")} {
		s := fault.ToStatus(err)
		if s.Code() != codes.Internal || strings.Contains(s.Proto().String(), "swordfish") {
			t.Errorf("%v is sent as %v", err, s)
		}
		if !errors.Is(fault.From(err), secret) {
			t.Errorf("%v lost its cause on this side", err)
		}
	}
}

func TestClassification(t *testing.T) {
	cases := []struct {
		err  error
		want fault.Class
	}{
		{nil, fault.None},
		{io.ErrUnexpectedEOF, fault.Internal},
		{context.Canceled, fault.Transient},
		{fmt.Errorf("waiting: %w", context.DeadlineExceeded), fault.Transient},
		{status.Error(codes.Unavailable, "no connection"), fault.Transient},
		{status.Error(codes.DeadlineExceeded, "too late"), fault.Transient},
		{status.Error(codes.Unimplemented, "no such method"), fault.Invalid},
		{status.Error(codes.DataLoss, "gone"), fault.Internal},
		{fault.New(fault.Class(99), "R", "m"), fault.Class(99)},
	}
	for _, c := range cases {
		if got := fault.ClassOf(c.err); got != c.want {
			t.Errorf("%v is %s, want %s", c.err, got, c.want)
		}
	}
	if fault.Is(nil, fault.None) {
		t.Error("no error is of a class")
	}
	if fault.Class(99).HTTPStatus() != http.StatusInternalServerError {
		t.Error("an unknown class is not answered as Internal")
	}
}

func TestEndOfContextIsFoundBehindACall(t *testing.T) {
	for _, err := range []error{context.Canceled, context.DeadlineExceeded} {
		remote := fault.FromStatus(fault.ToStatus(err).Err())
		if !errors.Is(remote, err) {
			t.Errorf("%v became %v", err, remote)
		}
	}
	if got := status.Code(fault.ToStatus(context.Canceled).Err()); got != codes.Canceled {
		t.Errorf("code %s, want Canceled", got)
	}
}

func TestFieldsAreNotShared(t *testing.T) {
	first := fault.Refuse("a", "Rule", "is wrong")
	second := first.WithField("b", "Rule", "is wrong too")
	if len(first.Fields) != 1 || len(second.Fields) != 2 {
		t.Errorf("fields %v and %v, want one and two", first.Fields, second.Fields)
	}
}
