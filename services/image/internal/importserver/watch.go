package importserver

import (
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	imagev1 "orlop.dev/gen/orlop/image/v1"
)

// watch is one caller of WatchImports. It has no queue: of an import that changes
// faster than the caller reads, the caller sees the last state.
type watch struct {
	kind   string
	turned map[string]bool // owners' UIDs; guarded by Server.mu
	wake   chan struct{}
	// over is closed when what was told before holds no more.
	over chan struct{}
}

// WatchImports implements ImportServiceServer.
func (s *Server) WatchImports(request *imagev1.WatchImportsRequest, stream grpc.ServerStreamingServer[imagev1.Import]) error {
	w, err := s.watch(request.GetOwnerKind())
	if err != nil {
		return err
	}
	defer s.unwatch(w)
	for {
		for _, told := range s.news(w) {
			if err := stream.Send(told); err != nil {
				return err
			}
		}
		select {
		case <-w.wake:
		case <-w.over:
			return notLeading()
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (s *Server) watch(kind string) (*watch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leading {
		return nil, notLeading()
	}
	w := &watch{kind: kind, turned: map[string]bool{}, wake: make(chan struct{}, 1), over: make(chan struct{})}
	for uid, found := range s.wanted {
		w.turned[uid] = found.owner.GetKind() == kind
	}
	s.watches[w] = true
	return w, nil
}

func (s *Server) unwatch(w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watches, w)
}

// announce tells all callers of an import that was looked at. Server.mu is held.
func (s *Server) announce(of *wanted) {
	for w := range s.watches {
		if w.kind == of.owner.GetKind() {
			w.turned[of.owner.GetUid()] = true
			poke(w.wake)
		}
	}
}

// news are the imports that turned since the last call.
func (s *Server) news(w *watch) []*imagev1.Import {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*imagev1.Import
	for uid, turned := range w.turned {
		if of := s.wanted[uid]; turned && of != nil && of.told != nil {
			all = append(all, proto.CloneOf(of.told))
		}
	}
	clear(w.turned)
	return all
}
