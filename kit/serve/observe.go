package serve

import (
	"context"
	"crypto/rand"
	"log/slog"
	"path"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"orlop.dev/kit/fault"
)

// requestIDHeader carries the name of a call through logs, here and at the
// caller. It comes back in the trailer of every answer.
const requestIDHeader = "x-request-id"

// observer logs and counts calls. The labels of its metrics are bounded: only
// methods that are registered get here.
type observer struct {
	logger   *slog.Logger
	duration *prometheus.HistogramVec
	active   *prometheus.GaugeVec
}

func newObserver(l *slog.Logger, r prometheus.Registerer) (*observer, error) {
	o := &observer{
		logger: l,
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "orlop_grpc_server_call_seconds",
			Help:    "How long calls took, by method and class of fault.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10},
		}, []string{"service", "method", "class"}),
		active: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "orlop_grpc_server_active_calls",
			Help: "Calls and streams under way.",
		}, []string{"service", "method"}),
	}
	for _, c := range []prometheus.Collector{o.duration, o.active} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (o *observer) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	id := requestID(ctx)
	// A header would tell the caller's library that the call has begun to answer,
	// and so forbid it to try again; a trailer doesn't. It fails only where there
	// is nobody to tell.
	_ = grpc.SetTrailer(ctx, metadata.Pairs(requestIDHeader, id))
	end := o.begin(ctx, info.FullMethod, id)
	resp, err := handler(ctx, req)
	end(err)
	return resp, err
}

func (o *observer) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	id := requestID(ss.Context())
	ss.SetTrailer(metadata.Pairs(requestIDHeader, id))
	end := o.begin(ss.Context(), info.FullMethod, id)
	err := handler(srv, ss)
	end(err)
	return err
}

// begin notes the start of a call; what it returns notes its end.
func (o *observer) begin(ctx context.Context, fullMethod, id string) func(error) {
	service, method := path.Split(fullMethod)
	service = strings.Trim(service, "/")
	started := time.Now()
	o.active.WithLabelValues(service, method).Inc()
	return func(err error) {
		took := time.Since(started)
		class := fault.ClassOf(err)
		o.active.WithLabelValues(service, method).Dec()
		o.duration.WithLabelValues(service, method, class.String()).Observe(took.Seconds())
		attrs := []slog.Attr{
			slog.String("service", service), slog.String("method", method), slog.String("request", id),
			slog.Duration("took", took), slog.String("class", class.String()),
		}
		if err != nil {
			attrs = append(attrs, slog.String("reason", fault.ReasonOf(err)), slog.String("error", err.Error()))
		}
		o.logger.LogAttrs(ctx, level(class), "call", attrs...)
	}
}

// level: a fault is the caller's business unless it is ours; refusals of
// credentials are worth seeing.
func level(c fault.Class) slog.Level {
	switch c {
	case fault.Internal:
		return slog.LevelError
	case fault.Denied, fault.Unauthenticated:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// requestID takes the caller's name for the call if it is fit for a log.
func requestID(ctx context.Context) string {
	given := metadata.ValueFromIncomingContext(ctx, requestIDHeader)
	if len(given) == 1 && len(given[0]) <= 64 && !strings.ContainsFunc(given[0], unprintable) && given[0] != "" {
		return given[0]
	}
	return rand.Text()
}

func unprintable(r rune) bool { return r <= ' ' || r > '~' }
