package importer

import (
	"io"
	"time"
)

// Progress is how far the source was read.
type Progress struct {
	// ReadBytes counts from the start of the file, also after a resumption.
	ReadBytes int64
	// TotalBytes is -1 while unknown.
	TotalBytes int64
	// BytesPerSecond is the present speed, AverageBytesPerSecond that since this
	// process began to read.
	BytesPerSecond        int64
	AverageBytesPerSecond int64
}

// meter counts what passes and reports it, at most once an interval.
type meter struct {
	r      io.Reader
	report func(Progress)
	every  time.Duration

	read, total   int64
	start, last   time.Time
	first, marked int64
}

func newMeter(r io.Reader, j *job, total int64) *meter {
	now := time.Now()
	offset := j.checkpoint.Offset
	return &meter{
		r: r, report: j.Progress, every: j.options.ProgressEvery,
		read: offset, total: total, start: now, last: now, first: offset, marked: offset,
	}
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.read += int64(n)
	if m.report != nil && time.Since(m.last) >= m.every {
		m.tell()
	}
	return n, err
}

// tell reports at once.
func (m *meter) tell() {
	if m.report == nil {
		return
	}
	now := time.Now()
	m.report(Progress{
		ReadBytes: m.read, TotalBytes: m.total,
		BytesPerSecond:        speed(m.read-m.marked, now.Sub(m.last)),
		AverageBytesPerSecond: speed(m.read-m.first, now.Sub(m.start)),
	})
	m.last, m.marked = now, m.read
}

func speed(bytes int64, d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return int64(float64(bytes) / d.Seconds())
}
