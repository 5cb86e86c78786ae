package serve

import (
	"sync"

	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// readiness is the health of a process: of each part's services, and, under
// the empty name, of all together.
type readiness struct {
	server *health.Server

	mu       sync.Mutex
	waiting  map[string][]string // part to its services
	stopping bool
}

func newReadiness() *readiness {
	r := &readiness{server: health.NewServer(), waiting: map[string][]string{}}
	r.server.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	return r
}

// expect notes a part that has to become ready.
func (r *readiness) expect(part string, services []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting[part] = services
	for _, s := range services {
		r.server.SetServingStatus(s, grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	}
}

// ready notes that a part can answer.
func (r *readiness) ready(part string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		return
	}
	for _, s := range r.waiting[part] {
		r.server.SetServingStatus(s, grpc_health_v1.HealthCheckResponse_SERVING)
	}
	delete(r.waiting, part)
	if len(r.waiting) == 0 {
		r.server.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
	}
}

// stop says that nothing new should come, for good.
func (r *readiness) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopping = true
	r.server.Shutdown()
}

// state says whether all is well, and which parts are not ready yet.
func (r *readiness) state() (serving bool, unready []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for part := range r.waiting {
		unready = append(unready, part)
	}
	return !r.stopping && len(unready) == 0, unready
}
