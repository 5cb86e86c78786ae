package machinetest_test

import (
	"testing"

	"orlop.dev/services/vm/internal/attachment/attachmenttest"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/machine/machinetest"
)

func TestEngineInMemory(t *testing.T) {
	machinetest.RunEngine(t, func(*testing.T) machinetest.Subject {
		engine := new(machinetest.Engine)
		return machinetest.Subject{
			Engine: engine,
			Instance: func(_ *testing.T, uid string) machine.Instance {
				return machine.Instance{UID: uid, Devices: []machine.Device{{ID: "virtualdisk/root"}}}
			},
			Size: func(_ *testing.T, instance machine.Instance) int64 { return engine.Size(instance.Devices[0].ID) },
			End: func(_ *testing.T, uid string, how machine.State) {
				engine.Set(uid, machine.Sight{State: how})
			},
		}
	})
}

func TestDevicesPluggedInMemory(t *testing.T) {
	attachmenttest.RunEngine(t, func(*testing.T) attachmenttest.Subject {
		return attachmenttest.Subject{
			Engine:   new(machinetest.Engine),
			Instance: func(_ *testing.T, uid string) machine.Instance { return machine.Instance{UID: uid} },
			Device:   func(*testing.T) machine.Device { return machine.Device{} },
		}
	})
}
