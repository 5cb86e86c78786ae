package endtoend_test

import (
	"crypto/rand"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience is how long a guest may take to answer a key before it is pressed again.
const patience = 2 * time.Second

// console is `orlop console` with a person at it, who reads and types.
type console struct {
	t       testing.TB
	command *exec.Cmd
	keys    io.WriteCloser
	printed chan []byte
	// unread is what was printed and not expected yet.
	unread strings.Builder
}

func (u *user) openConsole() *console { return u.openConsoleOf("linux-vm") }

func (u *user) openConsoleOf(vm string) *console {
	u.t.Helper()
	command := exec.Command(u.bin("orlop"), "console", vm)
	command.Env = append(os.Environ(), "ORLOP_HOME="+u.home, "KUBECONFIG="+filepath.Join(u.home, "kubeconfig"))
	keys, err := command.StdinPipe()
	check(u.t, err)
	screen, err := command.StdoutPipe()
	check(u.t, err)
	command.Stderr = command.Stdout
	check(u.t, command.Start())
	c := &console{t: u.t, command: command, keys: keys, printed: make(chan []byte, 64)}
	go c.read(screen)
	return c
}

func (c *console) read(screen io.Reader) {
	defer close(c.printed)
	for {
		buffer := make([]byte, 4096)
		n, err := screen.Read(buffer)
		if n > 0 {
			c.printed <- buffer[:n]
		}
		if err != nil {
			return
		}
	}
}

func (c *console) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.keys, text); err != nil {
		c.t.Fatalf("type %q: %v", text, err)
	}
}

// expect reads until the guest printed text, and returns what came before it.
func (c *console) expect(text string) string {
	c.t.Helper()
	give := time.After(deadline)
	for {
		all := c.unread.String()
		if before, after, found := strings.Cut(all, text); found {
			c.unread.Reset()
			c.unread.WriteString(after)
			return before
		}
		select {
		case printed, open := <-c.printed:
			if !open {
				c.t.Fatalf("the console ended; it showed %q, not %q", all, text)
			}
			c.unread.Write(printed)
		case <-give:
			c.t.Fatalf("the guest never printed %q; it printed %q", text, all)
		}
	}
}

// knock presses Enter, as a person does at a dark screen, until the guest asks
// who is there: its getty may be starting anew. What the console shows of earlier
// logins ends where a word comes back that nobody has typed before.
func (c *console) knock() {
	c.t.Helper()
	const eraseLine = "\x15"
	for range deadline / patience {
		c.send("\n")
		if !c.shows(func(screen string) bool { return strings.HasSuffix(strings.TrimRight(screen, " "), "login:") }) {
			continue
		}
		word := strings.ToLower(rand.Text())
		c.send(word)
		if c.shows(func(screen string) bool { return strings.Contains(screen, word) }) {
			c.send(eraseLine)
			c.unread.Reset()
			return
		}
	}
	c.t.Fatalf("the guest never asked for a login; it printed %q", c.unread.String())
}

// shows reads for as long as one is patient, and reports whether the screen is as
// wanted then.
func (c *console) shows(wanted func(screen string) bool) bool {
	c.t.Helper()
	give := time.After(patience)
	for !wanted(c.unread.String()) {
		select {
		case printed, open := <-c.printed:
			if !open {
				c.t.Fatalf("the console ended; it showed %q", c.unread.String())
			}
			c.unread.Write(printed)
		case <-give:
			return false
		}
	}
	return true
}

// close leaves with Ctrl+].
func (c *console) close() {
	_, _ = io.WriteString(c.keys, "\x1d")
	_ = c.keys.Close()
	for range c.printed {
	}
	if err := c.command.Wait(); err != nil {
		c.t.Errorf("orlop console: %v", err)
	}
}
