package migrationtest_test

import (
	"testing"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/services/vm/internal/migration/migrationtest"
)

func TestEngineInMemory(t *testing.T) {
	migrationtest.Run(t, func(*testing.T) migrationtest.Subject {
		running := map[string]bool{}
		return migrationtest.Subject{
			Engine: &migrationtest.Engine{Runs: func(uid string) bool { return running[uid] }},
			Start:  func(_ *testing.T, uid string) *networkv1.Port { running[uid] = true; return &networkv1.Port{} },
			Works:  func(*testing.T, string) {},
		}
	})
}
