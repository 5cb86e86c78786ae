package local

import (
	"log/slog"
	"os"
	"time"

	"orlop.dev/facade/home"
)

// report tells the state folder how far the daemon is. That it can't is logged
// and no reason to end.
type report struct {
	home   home.Home
	logger *slog.Logger
	status home.Status
	began  time.Time // of the present step
}

func newReport(h home.Home, version string, logger *slog.Logger) *report {
	r := &report{home: h, logger: logger, status: home.Status{
		PID: os.Getpid(), Phase: home.Starting, Version: version, Began: time.Now(),
	}}
	r.write()
	return r
}

func (r *report) begin(name string) {
	r.began = time.Now()
	r.status.Steps = append(r.status.Steps, home.Step{Name: name})
	r.write()
}

// done ends the step that began last.
func (r *report) done(detail string) {
	s := &r.status.Steps[len(r.status.Steps)-1]
	s.Done, s.Detail, s.Took = true, detail, time.Since(r.began)
	r.logger.Info("started", "part", s.Name, "detail", detail, "took", s.Took)
	r.write()
}

func (r *report) fact(name, value, reason string) {
	r.status.Facts = append(r.status.Facts, home.Fact{Name: name, Value: value, Reason: reason})
}

func (r *report) phase(p home.Phase) {
	r.status.Phase = p
	r.logger.Info("the daemon's phase", "phase", p)
	r.write()
}

func (r *report) ended(err error) {
	r.status.Phase = home.Stopped
	if err != nil {
		r.status.Phase, r.status.Error = home.Failed, err.Error()
	}
	r.write()
}

func (r *report) write() {
	if err := r.home.WriteStatus(r.status); err != nil {
		r.logger.Error("the status can't be written", "error", err)
	}
}
