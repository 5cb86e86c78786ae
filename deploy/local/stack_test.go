package local

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
)

func newTestStack(t *testing.T) (*stack, context.Context) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	return newStack(ctx, cancel, slog.New(slog.DiscardHandler)), ctx
}

func TestStackStopsTheLastStartedFirst(t *testing.T) {
	s, _ := newTestStack(t)
	var stopped []string
	for _, name := range []string{"etcd", "services", "facade"} {
		s.push(name, func() error {
			stopped = append(stopped, name)
			return nil
		})
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"facade", "services", "etcd"}; !slices.Equal(stopped, want) {
		t.Errorf("stopped %v, want %v", stopped, want)
	}
}

func TestStackRunsAPartUntilItsTurnToStop(t *testing.T) {
	s, _ := newTestStack(t)
	s.run("part", func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if err := s.stop(); err != nil {
		t.Errorf("an orderly end is %v", err)
	}
}

func TestStackFailsWithThePartThatFails(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name string
		end  error // of the part
		want error
	}{
		{"with its error", broken, broken},
		{"also where it ends without one", nil, errEnded},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, ctx := newTestStack(t)
			s.run("part", func(context.Context) error { return test.end })
			<-ctx.Done()
			if err := context.Cause(ctx); !errors.Is(err, test.want) {
				t.Errorf("the cause is %v, want %v", err, test.want)
			}
			if err := s.stop(); err != nil {
				t.Errorf("stopping tells it a second time: %v", err)
			}
		})
	}
}
