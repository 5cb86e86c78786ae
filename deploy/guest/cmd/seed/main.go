// Command seed applies a NoCloud seed to the micro guest, as cloud-init does in
// larger ones. Init runs it twice at each boot: "seed start" before anyone can
// log in, "seed finish" after.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"orlop.dev/deploy/guest/internal/instance"
)

func main() { os.Exit(run()) }

// run returns the process's exit status.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	guest := instance.New(log)

	stages := map[string]func(context.Context) error{"start": guest.Start, "finish": guest.Finish}
	if len(os.Args) != 2 || stages[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: seed start|finish")
		return 2
	}
	if err := stages[os.Args[1]](ctx); err != nil {
		log.Error("the seed was not applied in full", "stage", os.Args[1], "error", err)
		return 1
	}
	return 0
}
