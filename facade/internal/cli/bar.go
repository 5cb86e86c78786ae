package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

const (
	barWidth     = 30
	barEvery     = 200 * time.Millisecond
	barLineEvery = 5 * time.Second
)

// bar shows how far something is: in one line that changes on a terminal, else
// in a line from time to time.
type bar struct {
	out      io.Writer
	name     string
	terminal bool

	last   time.Time
	bytes  int64 // at last
	speed  float64
	text   string // of the line that is shown
	latest string // of the phase that was told
}

func newBar(out io.Writer, name string) *bar {
	file, isFile := out.(*os.File)
	return &bar{out: out, name: name, terminal: isFile && term.IsTerminal(int(file.Fd()))}
}

// show tells of bytes sent. It may be called as often as one likes.
func (b *bar) show(done, total int64) {
	every := barLineEvery
	if b.terminal {
		every = barEvery
	}
	now := time.Now()
	since := now.Sub(b.last)
	if since < every && done < total {
		return
	}
	if !b.last.IsZero() && since > 0 {
		speed := float64(done-b.bytes) / since.Seconds()
		if b.speed == 0 {
			b.speed = speed
		}
		b.speed += (speed - b.speed) / 4 // smooth: lines are read by people
	}
	b.last, b.bytes = now, done
	b.line(b.render(done, total))
}

func (b *bar) render(done, total int64) string {
	part := 1.0
	if total > 0 {
		part = float64(done) / float64(total)
	}
	text := fmt.Sprintf("%s  %5.1f%%  %s of %s", b.name, part*100, binary(done), binary(total))
	if b.speed > 0 && done < total {
		left := time.Duration(float64(total-done)/b.speed) * time.Second
		text += fmt.Sprintf("  %s/s  %s left", binary(int64(b.speed)), left)
	}
	if b.terminal {
		full := int(part * barWidth)
		text = "[" + strings.Repeat("=", full) + strings.Repeat(" ", barWidth-full) + "] " + text
	}
	return text
}

// phase tells of an object's phase, once.
func (b *bar) phase(text string) {
	if text = strings.TrimSpace(text); text != "" && text != b.latest {
		b.latest = text
		b.line(b.name + "  " + text)
	}
}

// say tells of something in a line that stays.
func (b *bar) say(text string) {
	b.end()
	fmt.Fprintf(b.out, "%s  %s\n", b.name, text)
}

func (b *bar) line(text string) {
	if b.terminal {
		fmt.Fprintf(b.out, "\r\x1b[K%s", text)
	} else {
		fmt.Fprintln(b.out, text)
	}
	b.text = text
}

// end leaves the last line as it is.
func (b *bar) end() {
	if b.terminal && b.text != "" {
		fmt.Fprintln(b.out)
	}
	b.text = ""
}

// binary writes bytes for people: 285.9 MiB.
func binary(bytes int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, unit := float64(bytes), 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}
