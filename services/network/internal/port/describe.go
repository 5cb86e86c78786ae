package port

import (
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/services/network/internal/fabric"
)

// describe is a port as other services read it.
func describe(p fabric.Port) *networkv1.Port {
	described := &networkv1.Port{
		Mode:             mode(p.Mode),
		Address:          p.Address.String(),
		Gateway:          p.Gateway.String(),
		MacAddress:       p.MAC.String(),
		Tap:              p.Tap,
		NetworkNamespace: p.Namespace,
		Mtu:              int32(p.MTU), //nolint:gosec // at most 65521
	}
	for _, forward := range p.Forwards {
		described.ForwardedPorts = append(described.ForwardedPorts,
			&networkv1.ForwardedPort{Host: forward.Host.String(), GuestPort: int32(forward.Guest)})
	}
	for _, server := range p.DNS {
		described.NameServers = append(described.NameServers, server.String())
	}
	return described
}

func mode(m fabric.Mode) networkv1.PortMode_Value {
	if m == fabric.User {
		return networkv1.PortMode_User
	}
	return networkv1.PortMode_Tap
}
