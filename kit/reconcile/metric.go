package reconcile

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orlop.dev/kit/fault"
)

// Metrics count the work of all loops of a process.
type Metrics struct {
	duration *prometheus.HistogramVec
}

// NewMetrics registers the metrics. It fails if they are registered already.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "orlop_reconcile_seconds",
		Help:    "How long steps took, by loop and class of fault.",
		Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10, 60},
	}, []string{"loop", "class"})}
	return m, r.Register(m.duration)
}

func (m *Metrics) observe(loop string, class fault.Class, took time.Duration) {
	if m != nil {
		m.duration.WithLabelValues(loop, class.String()).Observe(took.Seconds())
	}
}
