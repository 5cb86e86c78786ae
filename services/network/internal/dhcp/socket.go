package dhcp

import (
	"syscall"

	"golang.org/x/sys/unix"
)

type rawConn = syscall.RawConn

func prepare(raw rawConn, device string) error {
	var failure error
	err := raw.Control(func(descriptor uintptr) {
		failure = configure(int(descriptor), device)
	})
	if err != nil {
		return err
	}
	return failure
}

func configure(socket int, device string) error {
	for _, option := range []int{
		unix.SO_BROADCAST,
		unix.SO_REUSEADDR, // Servers on other devices have the same port.
		// Replies carry no UDP checksum. It would be left to a network card that isn't there, and guests that read
		// frames themselves, as DHCP clients do, would find it wrong.
		unix.SO_NO_CHECK,
	} {
		if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, option, 1); err != nil {
			return err
		}
	}
	return unix.BindToDevice(socket, device)
}
