package job

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/importer"
)

// progressEvery is how often an import tells how far it is.
const progressEvery = time.Second

// Options tune a Pool. Registry and StagingDir are required.
type Options struct {
	Registry *dvcr.Registry
	// StagingDir holds what outlives the process: checkpoints, and raw disks on
	// their way. It must be this pool's alone, and is made if missing.
	StagingDir string
	// Parallel is how many imports run at once (2).
	Parallel int
	Limits   diskimage.Limits
	// Initial and Max pace attempts after failures that may pass (2 s, 2 min).
	Initial, Max time.Duration
	// ChunkBytes is how much lies between two checkpoints (64 MiB).
	ChunkBytes int64
	// Logger is slog.Default() where it is nil.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Parallel <= 0 {
		o.Parallel = 2
	}
	if o.Initial <= 0 {
		o.Initial = 2 * time.Second
	}
	if o.Max <= 0 {
		o.Max = 2 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// Pool has the imports of a process. What it knows of them is in memory: an image
// that failed is tried again by the next process, whose settings may be others.
type Pool struct {
	options  Options
	importer *importer.Importer
	slots    chan struct{}
	wake     chan struct{}

	mu      sync.Mutex
	jobs    map[string]*job // by UID
	waiting []*job          // not yet at work
}

// New returns a pool. Tasks begin when Run runs.
func New(o Options) (*Pool, error) {
	o = o.withDefaults()
	if err := os.MkdirAll(o.StagingDir, 0o700); err != nil {
		return nil, err
	}
	return &Pool{
		options: o,
		importer: importer.New(importer.Options{
			StagingDir: o.StagingDir, ChunkBytes: o.ChunkBytes, ProgressEvery: progressEvery,
		}),
		slots: make(chan struct{}, o.Parallel),
		wake:  make(chan struct{}, 1),
		jobs:  map[string]*job{},
	}, nil
}

// Run works until ctx ends, and returns nil after the last import has stopped.
// It forgets all tasks then; what is durable of them stays. It may run again,
// but not twice at once.
func (p *Pool) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer p.reset()
	defer group.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
			for _, j := range p.take() {
				group.Go(func() { j.work(ctx) })
			}
		}
	}
}

func (p *Pool) take() []*job {
	p.mu.Lock()
	defer p.mu.Unlock()
	jobs := p.waiting
	p.waiting = nil
	return jobs
}

func (p *Pool) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.jobs, p.waiting = map[string]*job{}, nil
}

// Start begins an import, unless it is there already, and returns its state. An
// import of another version is stopped first: call again when that has ended,
// which Changed tells. One that is done is begun anew. It never blocks.
func (p *Pool) Start(t Task) State {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.jobs[t.UID]; old != nil {
		same := old.state.Version == t.Version
		if same && old.state.Stage != Done {
			return old.state
		}
		if !p.stop(old) {
			return old.state
		}
	}
	j := &job{pool: p, task: t, state: State{Version: t.Version}}
	p.jobs[t.UID] = j
	p.waiting = append(p.waiting, j)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return j.state
}

// State returns the state of an import; false if there is none.
func (p *Pool) State(uid string) (State, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if j := p.jobs[uid]; j != nil {
		return j.state, true
	}
	return State{}, false
}

// Stop cancels an import and forgets it, and reports whether nothing of it runs
// any more. If something does, Changed tells its end. What is durable stays, for
// Clean.
func (p *Pool) Stop(uid string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	j := p.jobs[uid]
	return j == nil || p.stop(j)
}

// stop is Stop for a job that is there.
func (p *Pool) stop(j *job) bool {
	if j.state.Stage.Ended() {
		delete(p.jobs, j.task.UID)
		return true
	}
	j.state.Stage = Stopping
	if j.cancel != nil {
		j.cancel()
	}
	return false
}

// leave forgets a job that was stopped.
func (p *Pool) leave(j *job) {
	p.mu.Lock()
	ended := j.state.Stage.Ended()
	if !ended && p.jobs[j.task.UID] == j {
		delete(p.jobs, j.task.UID)
	}
	p.mu.Unlock()
	if !ended {
		j.task.Changed()
	}
}

// Clean drops all that is durable of an import that won't go on: its upload,
// staging file and checkpoint. It must have been stopped. It may be repeated.
func (p *Pool) Clean(ctx context.Context, t Task) error {
	request, file, err := p.request(t)
	if err != nil {
		return err
	}
	stored, _, err := file.read()
	if err != nil {
		return err
	}
	// What is there may be of an earlier version.
	file.version = stored.Version
	request.Checkpoints = file
	if err := p.importer.Forget(ctx, request); err != nil {
		return err
	}
	return file.remove()
}

// Mark writes down that a version is at work for which no import runs, such as a
// copy within the registry, and drops what another version has left. No import
// of the UID may run.
func (p *Pool) Mark(ctx context.Context, t Task) error {
	request, file, err := p.request(t)
	if err != nil {
		return err
	}
	return p.forgetOther(ctx, request, file)
}

// Last is what was last at work on an image, in this process or one before.
type Last struct {
	Version int32
	// Published says that it came to its end: the image was in the registry.
	Published bool
}

// Last returns what was last at work on an image; false if that isn't known here.
func (p *Pool) Last(uid string) (Last, bool) {
	stored, found, err := p.file(Task{UID: uid}).read()
	return Last{Version: stored.Version, Published: stored.Published}, found && err == nil
}

// Publish writes down that an image is in the registry for which no import ran.
func (p *Pool) Publish(t Task) error { return p.file(t).publish() }

func (p *Pool) file(t Task) checkpointFile {
	return checkpointFile{path: filepath.Join(p.options.StagingDir, t.UID+".json"), version: t.Version}
}

// request is a task in the words of the importer.
func (p *Pool) request(t Task) (importer.Request, checkpointFile, error) {
	target, err := p.options.Registry.Repository(t.Repository)
	if err != nil {
		return importer.Request{}, checkpointFile{}, err
	}
	file := p.file(t)
	return importer.Request{
		ID: t.UID, Source: t.Source,
		Checksum: t.Checksum, SourceUID: t.SourceUID, Target: target, Tag: t.Tag, Limits: p.options.Limits, Checkpoints: file,
	}, file, nil
}

// forgetOther drops what an import of another version has left, and writes down
// whose turn it is.
func (p *Pool) forgetOther(ctx context.Context, request importer.Request, file checkpointFile) error {
	stored, found, err := file.read()
	if err != nil || found && stored.Version == file.version {
		return err
	}
	if found {
		request.Checkpoints = checkpointFile{path: file.path, version: stored.Version}
		if err := p.importer.Forget(ctx, request); err != nil {
			return err
		}
	}
	return file.Clear(ctx)
}
