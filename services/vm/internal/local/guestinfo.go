package local

import (
	"context"
	"errors"

	"google.golang.org/protobuf/types/known/timestamppb"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/guestagent"
)

// GuestInfo is what a guest's agent says now. What it can't tell is left out. Class
// NotReady where no agent answers.
func (e *Engine) GuestInfo(ctx context.Context, uid string) (*vmv1.GuestInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	process, err := e.running(ctx, uid)
	if err != nil {
		return nil, err
	}
	client := process.Agent()
	about, err := client.Info(ctx)
	if err != nil {
		return nil, fault.Wrap(err, fault.NotReady, "AgentNotReady", "no guest agent answers: install and start qemu-guest-agent in the guest")
	}
	info := &vmv1.GuestInfo{AgentVersion: about.Version}
	system, errSystem := client.OSInfo(ctx)
	info.System = system.PrettyName
	users, errUsers := client.Users(ctx)
	for _, user := range users {
		info.Users = append(info.Users, &vmv1.GuestUser{Name: user.Name, Domain: user.Domain, Since: timestamppb.New(user.Since)})
	}
	filesystems, errFilesystems := client.Filesystems(ctx)
	for _, one := range filesystems {
		info.Filesystems = append(info.Filesystems, &vmv1.GuestFilesystem{
			Device: one.Device, Mountpoint: one.Mountpoint, Type: one.Type, TotalBytes: one.TotalBytes, UsedBytes: one.UsedBytes,
		})
	}
	interfaces, errInterfaces := client.NetworkInterfaces(ctx)
	for _, one := range interfaces {
		shown := &vmv1.GuestInterface{Name: one.Name, MacAddress: one.MAC.String()}
		for _, address := range one.Addresses {
			shown.Addresses = append(shown.Addresses, address.String())
		}
		info.Interfaces = append(info.Interfaces, shown)
	}
	for _, err := range []error{errSystem, errUsers, errFilesystems, errInterfaces} {
		if refusal := new(guestagent.Error); err != nil && !errors.As(err, &refusal) {
			return nil, fault.Wrap(err, fault.NotReady, "AgentNotReady", "the guest agent does not answer now")
		}
	}
	return info, nil
}
