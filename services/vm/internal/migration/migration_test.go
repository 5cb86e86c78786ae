package migration_test

import (
	"strings"
	"testing"
	"time"

	"orlop.dev/services/vm/internal/migration"
	"orlop.dev/services/vm/internal/power"
)

func TestAMigrationIsOverdueWithoutProgressOrAfterItsTime(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	settings := migration.Settings{}.OrDefaults()
	for name, test := range map[string]struct {
		sight   migration.Sight // after a sight with 100 bytes left
		after   time.Duration
		overdue bool
	}{
		"nothing changed, yet":        {migration.Sight{RemainingBytes: 100}, settings.ProgressTimeout, false},
		"nothing changed for long":    {migration.Sight{RemainingBytes: 100}, settings.ProgressTimeout + 1, true},
		"less is left":                {migration.Sight{RemainingBytes: 99}, settings.ProgressTimeout + 1, false},
		"the guest is slowed down":    {migration.Sight{RemainingBytes: 100, ThrottlePercent: 40}, settings.ProgressTimeout + 1, false},
		"less is left, and too late":  {migration.Sight{RemainingBytes: 1}, 2*settings.CompletionTimeoutPerGiB + 1, true},
		"memory comes after disks":    {migration.Sight{RemainingBytes: 1 << 30, Copying: true}, settings.ProgressTimeout + 1, false},
		"disks are copied, too":       {migration.Sight{RemainingBytes: 1, CopiedBytes: 1 << 30}, 3 * settings.CompletionTimeoutPerGiB, false},
		"disks are copied, too late":  {migration.Sight{RemainingBytes: 1, CopiedBytes: 1 << 30}, 3*settings.CompletionTimeoutPerGiB + 1, true},
		"less is left, just in time ": {migration.Sight{RemainingBytes: 1}, 2 * settings.CompletionTimeoutPerGiB, false},
	} {
		var dog migration.Watchdog
		m := &power.Migration{Operation: "evict", Sending: &began}
		const memory = 2 << 30
		if early := dog.Overdue(settings, m, memory, migration.Sight{RemainingBytes: 100}, began); early != nil {
			t.Fatalf("%s: at once %v", name, early)
		}
		if got := dog.Overdue(settings, m, memory, test.sight, began.Add(test.after)); (got != nil) != test.overdue {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestTheProgressOfAMigrationNeverGoesBack(t *testing.T) {
	m := &power.Migration{Source: "node-1", Target: "node-2"}
	last := 0
	for _, sight := range []migration.Sight{
		{Stage: migration.Absent}, {Stage: migration.Prepared},
		{Stage: migration.Syncing, Copying: true, TotalBytes: 8 << 30, RemainingBytes: 8 << 30, CopiedBytes: 8 << 30},
		{Stage: migration.Syncing, Copying: true, TotalBytes: 8 << 30, RemainingBytes: 1 << 30, CopiedBytes: 8 << 30},
		{Stage: migration.Syncing, Copying: true, TotalBytes: 8 << 30, CopiedBytes: 8 << 30},
		{Stage: migration.Syncing, TotalBytes: 1 << 30, RemainingBytes: 1 << 30, CopiedBytes: 8 << 30},
		{Stage: migration.Syncing, TotalBytes: 1 << 30, RemainingBytes: 1 << 20, CopiedBytes: 8 << 30},
		{Stage: migration.Suspended, CopiedBytes: 8 << 30}, {Stage: migration.Moved},
	} {
		_, message, percent := migration.Describe(m, sight)
		if percent < last || percent > 100 {
			t.Errorf("%+v: %d %% after %d %%", sight, percent, last)
		}
		if disks := strings.HasPrefix(message, "Disks are copied to node-2: "); disks != sight.Copying {
			t.Errorf("%+v: %s", sight, message)
		}
		last = percent
	}
}
