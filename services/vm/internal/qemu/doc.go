// Package qemu runs one machine of ours as one QEMU process: it decides the
// command line, starts the process, finds it again after a restart of the
// daemon, tells in which state it is, and ends it.
//
// It owns a machine's run folder and its process, and the one QMP, serial and
// guest agent connection to it. It must not know resources, classes, leases or
// policies: whether a guest that powered off is started again is its caller's
// question.
//
// Guests outlive the daemon. What is true of them is therefore never kept in
// memory alone, but asked of the process: it holds a lock on a file in its run
// folder for as long as it lives, and stays behind, paused, when its guest has
// powered off or panicked, so that whoever comes back later can ask why.
package qemu
