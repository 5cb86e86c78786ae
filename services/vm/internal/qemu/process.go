package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"orlop.dev/services/vm/internal/console"
	"orlop.dev/services/vm/internal/guestagent"
	"orlop.dev/services/vm/internal/qmp"
)

const (
	// quitTimeout is how long QEMU may take to write its caches and leave.
	quitTimeout = 5 * time.Second
	// redial paces new QMP connections to a process that is alive.
	redialMin = 20 * time.Millisecond
	redialMax = time.Second
	// logLimit bounds QEMU's own log, which a guest can make grow, in bytes.
	logLimit    = 4 << 20
	logInterval = time.Minute
)

// ErrGone is a command to a process that ended.
var ErrGone = errors.New("the machine's process is gone")

// Process is one machine's QEMU. Its methods may be called from several
// goroutines; those that take a context block until QEMU answers.
type Process struct {
	machine Machine // as it was when it was found; disks and plugged are newer
	log     *slog.Logger
	notify  func(Event)

	console     *console.Console
	agent       *guestagent.Client
	subscribers subscribers

	// where is its run folder, which is renamed when the machine moves.
	where atomic.Pointer[folder]

	cancel   context.CancelFunc
	released chan struct{} // watch has ended
	gone     chan struct{} // the process has ended

	mu      sync.Mutex
	client  *qmp.Client   // nil while there is no connection
	change  chan struct{} // closed, and replaced, when client changes
	disks   []Disk        // Machine.Disks; the list itself is never changed
	plugged []Disk        // Machine.Plugged; neither is it
}

// attach connects to a process and checks that it is this machine's. One dial,
// one verdict: it doesn't wait for a process that is just starting.
func (e *Engine) attach(ctx context.Context, f folder, m Machine) (*Process, error) {
	client, err := connect(ctx, f, m.ID)
	if err != nil {
		return nil, err
	}
	p := e.process(f, m)
	p.client = client
	ctx, p.cancel = context.WithCancel(context.Background())
	p.console = console.Open(p.dialer(serialSocket))
	if !e.adopt(p) {
		_ = client.Close()
		_ = p.console.Close()
		p.cancel()
		return nil, ErrClosed
	}
	go p.watch(ctx, client)
	return p, nil
}

// departed stands for a process that is gone.
func (e *Engine) departed(f folder, m Machine) *Process {
	p := e.process(f, m)
	p.cancel = func() {}
	p.console = console.Open(p.dialer(serialSocket))
	_ = p.console.Close()
	p.subscribers.close()
	close(p.gone)
	close(p.released)
	return p
}

func (e *Engine) process(f folder, m Machine) *Process {
	p := &Process{
		machine: m, disks: m.Disks, plugged: m.Plugged, notify: e.notify,
		log:      e.log.With("machine", m.ID, "name", m.Name),
		released: make(chan struct{}),
		gone:     make(chan struct{}),
		change:   make(chan struct{}),
	}
	p.where.Store(&f)
	p.agent = guestagent.New(p.dialer(agentSocket))
	return p
}

func (p *Process) folder() folder { return *p.where.Load() }

func (p *Process) dialer(socket string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return p.folder().dial(ctx, socket) }
}

// adopt makes the engine remember the process, unless it is closed.
func (e *Engine) adopt(p *Process) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.processes[p.folder().name()] = p
	return true
}

func connect(ctx context.Context, f folder, id string) (*qmp.Client, error) {
	conn, err := f.dial(ctx, qmpSocket)
	if err != nil {
		return nil, err
	}
	client, err := qmp.New(ctx, conn)
	if err != nil {
		return nil, err
	}
	var identity struct{ UUID string }
	if err := client.Execute(ctx, "query-uuid", nil, &identity); err != nil {
		_ = client.Close()
		return nil, err
	}
	if identity.UUID != id {
		_ = client.Close()
		return nil, fmt.Errorf("the process in %s is machine %s", f, identity.UUID)
	}
	return client, nil
}

// watch owns the QMP connection until the process ends or is released.
func (p *Process) watch(ctx context.Context, client *qmp.Client) {
	defer close(p.released)
	defer p.subscribers.close()
	defer p.agent.Close()
	defer p.console.Close()
	p.emit(EventConnected)
	for client != nil {
		p.forward(ctx, client)
		p.setClient(nil)
		if ctx.Err() != nil {
			_ = client.Close()
			return
		}
		p.emit(EventDisconnected)
		client = p.reconnect(ctx)
	}
}

// forward passes events on until the connection ends or the process is released.
func (p *Process) forward(ctx context.Context, client *qmp.Client) {
	tick := time.NewTicker(logInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.trimLog()
		case event, ok := <-client.Events():
			if !ok {
				p.log.Info("QMP connection ended", "reason", client.Err())
				return
			}
			p.publish(Event{Name: EventName(event.Name), Time: event.Time, Data: event.Data})
		}
	}
}

// reconnect gives a new connection, or nil when the process is gone or released.
func (p *Process) reconnect(ctx context.Context) *qmp.Client {
	for pause := redialMin; ; pause = min(2*pause, redialMax) {
		alive, err := p.folder().alive()
		if err == nil && !alive {
			close(p.gone)
			p.emit(EventGone)
			return nil
		}
		attempt, cancel := context.WithTimeout(ctx, attachTimeout)
		client, dialErr := connect(attempt, p.folder(), p.machine.ID)
		cancel()
		if dialErr == nil {
			p.setClient(client)
			p.emit(EventConnected)
			return client
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

func (p *Process) emit(name EventName) { p.publish(Event{Name: name, Time: time.Now().UTC()}) }

func (p *Process) publish(event Event) {
	event.Machine = p.machine.ID
	p.notify(event)
	p.subscribers.publish(event)
}

func (p *Process) setClient(client *qmp.Client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.client = client
	close(p.change)
	p.change = make(chan struct{})
}

// trimLog empties a log that grew too long. QEMU appends, so its next line
// begins the file anew.
func (p *Process) trimLog() {
	path := p.folder().path(logFile)
	info, err := os.Stat(path)
	if err != nil || info.Size() <= logLimit {
		return
	}
	if err := os.Truncate(path, 0); err != nil {
		p.log.Warn("QEMU's log can't be shortened", "error", err)
	}
}

// release ends all that this side runs; the process runs on.
func (p *Process) release() {
	p.cancel()
	<-p.released
}

func (p *Process) isGone() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

func (p *Process) awaitGone(ctx context.Context) error {
	select {
	case <-p.gone:
		return nil
	case <-p.released:
		if p.isGone() {
			return nil
		}
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// execute runs a QMP command without arguments.
func (p *Process) execute(ctx context.Context, command string, result any) error {
	return p.executeWith(ctx, command, nil, result)
}

// executeWith runs a QMP command over the present connection, waiting for one if
// need be. Its errors: *qmp.Error as QEMU answered, ErrGone, ErrClosed,
// ErrUnresponsive when the context ended first.
func (p *Process) executeWith(ctx context.Context, command string, arguments, result any) error {
	client, err := p.connection(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	err = client.Execute(ctx, command, arguments, result)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrUnresponsive, err)
	}
	return err
}

func (p *Process) connection(ctx context.Context) (*qmp.Client, error) {
	for {
		p.mu.Lock()
		client, change := p.client, p.change
		p.mu.Unlock()
		if client != nil {
			return client, nil
		}
		select {
		case <-p.gone:
			return nil, ErrGone
		case <-p.released:
			if p.isGone() {
				return nil, ErrGone
			}
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrUnresponsive, context.Cause(ctx))
		case <-change:
		}
	}
}
