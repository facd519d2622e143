// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Holds the vCPUs of a real VM out of the guest.
//!
//! [`VcpuGate`] implements [`HoldVcpus`](crate::HoldVcpus) for vCPUs that run by
//! `KVM_RUN`, each on a thread of its own. A `SlotListener` takes one; a VMM
//! that applies plans itself calls [`VcpuGate::hold`] where a plan
//! [asks for it](crate::Plan::holds_vcpus).
//!
//! # Example
//!
//! ```no_run
//! use kvm_ioctls::{Kvm, VcpuExit};
//! use kvm_slots::vcpu_gate::{RunOutcome, VcpuGate};
//!
//! let vm = Kvm::new()?.create_vm()?;
//! let gate = VcpuGate::new()?;
//! let mut vcpu = gate.vcpu(vm.create_vcpu(0)?)?;
//! let thread = std::thread::spawn(move || {
//!     loop {
//!         match vcpu.run()? {
//!             RunOutcome::Exit(VcpuExit::MmioRead(_gpa, data)) => data.fill(0),
//!             RunOutcome::Exit(_) => {}
//!             RunOutcome::Kicked | RunOutcome::Interrupted => {}
//!             RunOutcome::Stopped => return Ok::<(), kvm_slots::vcpu_gate::RunError>(()),
//!         }
//!     }
//! });
//!
//! let held = gate.hold();
//! // No vCPU is in the guest: its memory may have a gap now.
//! drop(held);
//!
//! gate.stop();
//! thread.join().expect("the vCPU thread did not panic")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The examples `vcpu_gate` and `moving_bar` run guests:
//! `cargo run -p kvm-slots --all-features --example vcpu_gate`.
//!
//! # How a vCPU leaves the guest
//!
//! A vCPU thread marks its vCPU as inside, calls `KVM_RUN`, and marks it as
//! outside when it returns for any reason. A holder closes the gate. For each
//! vCPU inside, it sets `immediate_exit` in the vCPU's `kvm_run` and sends a
//! real-time signal to its thread. The signal makes `KVM_RUN` return.
//! `immediate_exit` is for a signal that arrives before `KVM_RUN` has begun and
//! would be lost: it makes `KVM_RUN` return without entering the guest. The
//! vCPU's thread clears it when it marks the vCPU as outside.
//!
//! Marking takes a lock of the vCPU's own, so vCPUs do not contend with each
//! other. A holder signals a thread only with that lock held and the vCPU marked
//! as inside: the thread is alive, and runs this vCPU. So a holder does not wait
//! for a vCPU that was dropped or whose thread panicked. A vCPU that is added
//! while the gate is held does not enter.
//!
//! # Exits that are not complete
//!
//! The exit for an MMIO or port access is in the middle of a guest instruction.
//! What the VMM put into `data` reaches the guest's register only in the next
//! `KVM_RUN`, which may access guest memory to finish the instruction. For a
//! hold this means:
//!
//! - A vCPU between an exit and its completion is outside. It can be held there,
//!   and its thread can hold others, or wait for other holders.
//! - The completion counts as running the guest. It waits while the gate is
//!   held, and finds memory as the holder left it.
//! - The exit itself was decided by memory as it was before the hold. A VMM that
//!   looks up the address after a hold may find another region there: take the
//!   view with [`GatedVcpu::run_with`], for which a holder waits.
//! - A hold may interrupt `KVM_RUN` just after it completed an exit. `run`
//!   starts `KVM_RUN` over, and the exit is neither lost nor repeated.
//! - KVM splits an access that crosses a page or has more than 8 bytes into
//!   several exits of one instruction, without a look at the memslots in
//!   between. A hold can come between them. A VMM answers each exit by the view
//!   that it took for it. Private MMIO that was just added has no answer, as if the
//!   address were empty.
//! - [`RunOutcome::Kicked`] and [`RunOutcome::Stopped`] say nothing about
//!   completion. To save a vCPU's registers, kick it and call
//!   [`GatedVcpu::complete`].
//!
//! # Rules for the VMM
//!
//! - A vCPU thread that keeps a [`HeldVcpus`] must not call `run`: it would wait
//!   for itself.
//! - A holder waits until each vCPU thread in `KVM_RUN` has been scheduled: some
//!   tens of microseconds where vCPUs have processors of their own, and
//!   milliseconds where they share them. It never waits for an exit to be
//!   handled, so it may own locks that exit handlers need.
//! - Holds that overlap endlessly keep the vCPUs out forever; a thread that only
//!   holds and releases in a loop may do so too.
//! - The signal's handler does nothing and is installed without `SA_RESTART`. A
//!   blocking system call that a thread makes right after `run` may fail with
//!   `EINTR` in rare cases.
//! - A thread's first `run` unblocks the signal in that thread. Do not block it
//!   again, or holders wait for an exit that the guest makes by itself.
//! - `RLIMIT_SIGPENDING` must leave room for a signal. Where the kernel has none,
//!   holders try again every millisecond until it has.
//! - A seccomp filter must allow `rt_sigaction` and `mmap` where gates and vCPUs
//!   are created, `rt_sigprocmask` and `gettid` in vCPU threads, and `getpid` and
//!   `tgkill` in holders.
//! - KVM must have `KVM_CAP_IMMEDIATE_EXIT`, as it has since Linux 4.12.

mod enter;
mod entry;
mod error;
mod gate;
mod holds;
mod presence;
mod run_page;
mod shared;
mod signal;
#[cfg(test)]
mod tests;
mod vcpu;

pub use error::{GateError, RunError};
pub use gate::{HeldVcpus, VcpuGate};
pub use vcpu::{CompleteOutcome, GatedVcpu, PortWidth, RunOutcome, VcpuKicker};
