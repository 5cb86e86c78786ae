package home

// Names of the doors in [Endpoints].
const (
	REST       = "rest"
	GRPC       = "grpc"
	DVCR       = "dvcr"
	Kubernetes = "kubernetes"
	Metrics    = "metrics"
	Webhook    = "webhook"
)

// Endpoints are the addresses (host:port) of the doors by their names. A door
// that isn't there is missing.
type Endpoints map[string]string

// ReadEndpoints returns what the last start of the daemon chose. The error is
// fs.ErrNotExist before the first.
func (h Home) ReadEndpoints() (Endpoints, error) {
	var e Endpoints
	err := readJSON(h.EndpointsFile(), &e)
	return e, err
}

// WriteEndpoints replaces the endpoints.
func (h Home) WriteEndpoints(e Endpoints) error { return writeJSON(h.EndpointsFile(), e) }
