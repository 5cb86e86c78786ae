package vm

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/serve"
	"orlop.dev/services/vm/internal/class"
)

// Part is the service as a piece of a process.
func (s *Service) Part() serve.Part {
	return serve.Part{Name: "vm", Register: s.register, Ready: s.ready, Run: s.run}
}

func (s *Service) register(registrar grpc.ServiceRegistrar) error {
	vmv1.RegisterNodeServiceServer(registrar, s)
	vmv1.RegisterGuestDiskServiceServer(registrar, s.quiesce)
	vmv1.RegisterMaintenanceServiceServer(registrar, maintenance{service: s, records: s.rules.Power})
	return errors.Join(
		resource.Register(registrar, &vmv1.VirtualMachineService_ServiceDesc, s, s.machines.methods),
		resource.Register(registrar, &vmv1.VirtualMachineClassService_ServiceDesc, nil, s.classes.methods),
		resource.Register(registrar, &vmv1.VirtualMachineOperationService_ServiceDesc, verbs{service: s}, s.operations.methods),
		resource.Register(registrar, &vmv1.VirtualMachineBlockDeviceAttachmentService_ServiceDesc, nil, s.attachments.methods),
	)
}

func (s *Service) ready(ctx context.Context) error {
	return errors.Join(
		s.machines.WaitSynced(ctx), s.classes.WaitSynced(ctx), s.operations.WaitSynced(ctx), s.attachments.WaitSynced(ctx))
}

func (s *Service) run(ctx context.Context) error {
	defer s.engine.Close()
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{
		s.machines.Run, s.classes.Run, s.operations.Run, s.attachments.Run, s.devices.Run, s.addresses.Run, s.macs.Run,
	} {
		group.Go(func() error { return run(ctx) })
	}
	group.Go(func() error { return s.leader.Run(ctx, s.lead) })
	return group.Wait()
}

// lead is what one replica does at a time.
func (s *Service) lead(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return nil //nolint:nilerr // The lead ended before it began.
	}
	if err := s.shipClasses(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.whenDevicesAreKnown(ctx, s.machines.loop.Run) })
	group.Go(func() error { return s.whenDevicesAreKnown(ctx, s.attachments.loop.Run) })
	if s.secrets != nil {
		group.Go(func() error { return s.secrets.Run(ctx) })
	}
	if s.pods != nil {
		group.Go(func() error { return s.pods.Run(ctx) })
	}
	group.Go(func() error { return s.survey.Power.Follow(ctx) })
	group.Go(func() error { return s.classes.loop.Run(ctx) })
	group.Go(func() error { return s.operations.loop.Run(ctx) })
	group.Go(func() error { return s.quiesce.Run(ctx) })
	group.Go(func() error { return s.keepEven(ctx) })
	group.Go(func() error { return s.engine.LookAfter(ctx) })
	group.Go(func() error {
		return follow(ctx, s.attachments.Collection, func(event resource.Event[*vmv1.VirtualMachineBlockDeviceAttachment]) {
			s.attachmentChanged(event.Object)
		})
	})
	group.Go(func() error {
		return follow(ctx, s.machines.Collection, func(event resource.Event[*vmv1.VirtualMachine]) {
			s.machineChanged(event.Object)
			s.roomChanged(event)
		})
	})
	group.Go(func() error {
		return follow(ctx, s.classes.Collection, func(event resource.Event[*vmv1.VirtualMachineClass]) {
			s.classChanged(event.Object.GetMetadata().GetName())
		})
	})
	return group.Wait()
}

// whenDevicesAreKnown runs a loop once it is known what VMs have: a disk that
// merely is not seen yet must not be told to be missing.
func (s *Service) whenDevicesAreKnown(ctx context.Context, run func(context.Context) error) error {
	if err := errors.Join(s.devices.WaitSynced(ctx), s.addresses.WaitSynced(ctx), s.macs.WaitSynced(ctx)); err != nil {
		return nil //nolint:nilerr // The lead ended before it began.
	}
	return run(ctx)
}

// shipClasses makes the classes that every installation has. One that somebody
// deleted is made again at the next start.
func (s *Service) shipClasses(ctx context.Context) error {
	for _, shipped := range class.Shipped() {
		shipped.ApiVersion, shipped.Kind = s.classes.Kind().APIVersion(), s.classes.Kind().Name
		if _, err := s.classes.Create(ctx, shipped); err != nil && !fault.Is(err, fault.Exists) {
			return err
		}
	}
	return nil
}
