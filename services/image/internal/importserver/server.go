package importserver

import (
	"context"

	"google.golang.org/protobuf/proto"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/image/internal/intake"
)

// repositories are where files are published, by the owner's kind, as the platform
// names them.
var repositories = map[string]string{"VirtualDisk": "vd"}

// EnsureImport implements ImportServiceServer.
func (s *Server) EnsureImport(ctx context.Context, request *imagev1.EnsureImportRequest) (*imagev1.Import, error) {
	wish, err := wishOf(request.GetOwner())
	if err != nil {
		return nil, err
	}
	if request.GetGeneration() < 1 || request.GetDataSource().GetType() == imagev1.DataSourceType_Unspecified {
		return nil, fault.Refuse("data_source", "FieldValueRequired", "generation and data_source are required")
	}
	wish.Version, wish.Source = request.GetGeneration(), proto.CloneOf(request.GetDataSource())
	w, err := s.want(request.GetOwner(), wish)
	if err != nil {
		return nil, err
	}
	told, err := s.step(ctx, w)
	if err != nil {
		return nil, err
	}
	return proto.CloneOf(told), nil
}

// want writes down what an owner asks for now.
func (s *Server) want(owner *metav1.Holder, wish intake.Wish) (*wanted, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leading {
		return nil, notLeading()
	}
	w := s.wanted[wish.UID]
	if w == nil {
		w = &wanted{owner: proto.CloneOf(owner), one: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
		s.wanted[wish.UID] = w
	}
	if wish.Version >= w.wish.Version { // an older one is a request that was overtaken
		wish.Changed = func() { s.turn(wish.UID) }
		w.wish = wish
	}
	return w, nil
}

// wishOf is what an owner's identity says of its file.
func wishOf(owner *metav1.Holder) (intake.Wish, error) {
	folder := repositories[owner.GetKind()]
	if folder == "" {
		return intake.Wish{}, fault.Refuse("owner.kind", "FieldValueNotSupported", "no files are imported for kind %q", owner.GetKind())
	}
	if owner.GetNamespace() == "" || owner.GetName() == "" || owner.GetUid() == "" {
		return intake.Wish{}, fault.Refuse("owner", "FieldValueRequired", "namespace, name and uid are required")
	}
	return intake.Wish{
		UID: owner.GetUid(), Namespace: owner.GetNamespace(), Anew: true,
		Repository: folder + "/" + owner.GetNamespace() + "/" + owner.GetName(),
	}, nil
}

// DeleteImport implements ImportServiceServer. It returns when nothing of the
// import is left; what ctx cuts short can be asked for again.
func (s *Server) DeleteImport(ctx context.Context, request *imagev1.DeleteImportRequest) (*imagev1.DeleteImportResponse, error) {
	wish, err := wishOf(request.GetOwner())
	if err != nil {
		return nil, err
	}
	w, err := s.want(request.GetOwner(), wish)
	if err != nil {
		return nil, err
	}
	if err := w.lock(ctx); err != nil {
		return nil, err
	}
	defer w.unlock()
	for {
		done, err := s.way.Remove(ctx, wish)
		if err != nil {
			s.forgetDeleted(w)
			return nil, err
		}
		if done {
			s.forget(w)
			return &imagev1.DeleteImportResponse{}, nil
		}
		select {
		case <-w.changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Server) forget(w *wanted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if uid := w.owner.GetUid(); s.wanted[uid] == w {
		delete(s.wanted, uid)
	}
}

// forgetDeleted forgets what only its deletion has brought to mind.
func (s *Server) forgetDeleted(w *wanted) {
	s.mu.Lock()
	asked := w.wish.Source != nil
	s.mu.Unlock()
	if !asked {
		s.forget(w)
	}
}
