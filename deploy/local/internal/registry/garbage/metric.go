package garbage

import "github.com/prometheus/client_golang/prometheus"

// metrics count what was collected.
type metrics struct {
	taken *prometheus.CounterVec
	bytes prometheus.Counter
	took  prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		taken: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "orlop_dvcr_collected_total", Help: "Things that the registry's collector took away.",
		}, []string{"kind"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "orlop_dvcr_freed_bytes_total", Help: "Bytes on disk that the registry's collector freed.",
		}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "orlop_dvcr_collection_seconds", Help: "How long collections of the registry's garbage took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.taken, m.bytes, m.took} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) add(r Report) {
	for kind, n := range map[string]int{
		"manifest": r.Manifests, "link": r.Links, "blob": r.Blobs, "upload": r.Uploads, "folder": r.Folders,
	} {
		m.taken.WithLabelValues(kind).Add(float64(n))
	}
	m.bytes.Add(float64(r.FreedBytes))
	m.took.Observe(r.Took.Seconds())
}
