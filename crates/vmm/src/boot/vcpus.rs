// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The threads of the vCPUs: each runs the guest and answers its exits by the view
//! that was current when it left the guest.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::VcpuExit;
use kvm_slots::Errno;
use kvm_slots::exit::GuestFault;
use kvm_slots::uapi::HYPERCALL_MAP_GPA_RANGE;
use kvm_slots::vcpu_gate::{GatedVcpu, PortWidth, RunError, RunOutcome};
use memory_model::{FlatView, ViewReader};

use super::architecture::ExitHandler;
use super::bus::{self, Handle};
use super::conversions::Conversions;
use super::native::Exits;
use super::outcome::{End, Outcome};

/// The return value for a hypercall that does not exist, -`KVM_ENOSYS`.
const NO_SUCH_HYPERCALL: u64 = (-1000_i64).cast_unsigned();

/// What a vCPU's thread needs to answer exits.
#[derive(Clone, Debug)]
pub struct ExitContext {
    /// The view of guest-physical memory.
    pub memory: ViewReader<Handle>,
    /// The view of I/O ports.
    pub ports: ViewReader<Handle>,
    /// Converts pages at the guest's request.
    pub conversions: Arc<Conversions>,
    /// Answers exits that only this architecture has.
    pub own: Exits,
    /// Where the end is reported.
    pub end: End,
}

/// Starts a vCPU's thread, which ends when the gate is stopped or the guest ends.
///
/// # Errors
/// The thread cannot be started.
pub fn spawn(
    number: usize,
    mut vcpu: GatedVcpu,
    context: ExitContext,
) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name(format!("vcpu{number}")).spawn(move || {
        let end = context.end.clone();
        let panicked = OnPanic(number, end.clone());
        if let Some(outcome) = run(&mut vcpu, &context) {
            end.report(outcome);
        }
        drop(panicked);
    })
}

/// Ends the guest if the thread of a vCPU panics.
struct OnPanic(usize, End);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = format!("the thread of vCPU {} panicked", self.0);
            self.1.report(Outcome::Fault(text));
        }
    }
}

/// Runs the guest until it ends. `None` if another thread has ended it.
fn run(vcpu: &mut GatedVcpu, context: &ExitContext) -> Option<Outcome> {
    let (mut memory, mut ports) = (context.memory.for_thread(), context.ports.for_thread());
    let port_width = vcpu.port_width();
    loop {
        let result = vcpu.run_with(|| (memory.view(), ports.view()));
        let stop = match result {
            Ok((RunOutcome::Exit(exit), Some((memory, ports)))) => {
                answer(exit, memory, (ports, &port_width), context)
            }
            Ok((RunOutcome::Stopped, _)) => return None,
            Ok(_) => None,
            Err(error) => Some(Stop::Failed(error)),
        };
        match stop {
            None if context.end.is_over() => return None,
            None => {}
            Some(Stop::Outcome(outcome)) => return Some(outcome),
            Some(Stop::Internal) => {
                return Some(Outcome::Fault(Exits::internal_error(vcpu.fd_mut())));
            }
            Some(Stop::Unknown(reason)) => {
                let unknown = || format!("an exit that no one handles: {reason}");
                let explained = Exits::explain(vcpu.fd_mut(), reason);
                return Some(Outcome::Fault(explained.unwrap_or_else(unknown)));
            }
            Some(Stop::Failed(RunError::Kvm(Errno::EAGAIN))) => {}
            Some(Stop::Failed(error)) => return Some(Outcome::Fault(failed(vcpu, &error))),
        }
    }
}

/// Why a vCPU cannot go on.
enum Stop {
    Outcome(Outcome),
    Internal,
    /// An exit with this reason, which kvm-ioctls does not decode.
    Unknown(u32),
    Failed(RunError),
}

fn answer(
    exit: VcpuExit<'_>,
    memory: &FlatView<Handle>,
    (ports, port_width): (&FlatView<Handle>, &PortWidth),
    ExitContext {
        conversions, own, ..
    }: &ExitContext,
) -> Option<Stop> {
    let fault = |text: String| Some(Stop::Outcome(Outcome::Fault(text)));
    match exit {
        VcpuExit::MmioRead(gpa, data) => bus::read(memory, gpa, data),
        VcpuExit::MmioWrite(gpa, data) => bus::write(memory, gpa, data),
        VcpuExit::IoIn(port, data) => {
            for data in data.chunks_mut(port_width.get()) {
                bus::read(ports, port.into(), data);
            }
        }
        VcpuExit::IoOut(port, data) => {
            for data in data.chunks(port_width.get()) {
                bus::write(ports, port.into(), data);
            }
        }
        VcpuExit::Hypercall(call) => {
            let [gpa, pages, attributes, ..] = call.args;
            *call.ret = match call.nr == u64::from(HYPERCALL_MAP_GPA_RANGE) {
                true => conversions.hypercall(gpa, pages, attributes),
                false => NO_SUCH_HYPERCALL,
            };
        }
        VcpuExit::MemoryFault { flags, gpa, size } => {
            return fault(conversions.memory_fault(flags, gpa, size));
        }
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => {
            return Some(Stop::Outcome(Outcome::PowerOff));
        }
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, data) => {
            return Some(Stop::Outcome(Exits::reset(data.first().copied())));
        }
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => {
            return Some(Stop::Outcome(Outcome::Panic));
        }
        VcpuExit::FailEntry(reason, _) => {
            return fault(format!(
                "the processor refused to enter the guest: {reason:#x}"
            ));
        }
        VcpuExit::InternalError => return Some(Stop::Internal),
        // Interrupt controllers are KVM's, and so is waiting for interrupts.
        VcpuExit::Intr | VcpuExit::Hlt => {}
        VcpuExit::Unsupported(reason) => return Some(Stop::Unknown(reason)),
        other if own.answer(&other) => {}
        other => return fault(format!("an exit that no one handles: {other:?}")),
    }
    None
}

/// The error of `KVM_RUN` in words.
fn failed(vcpu: &mut GatedVcpu, error: &RunError) -> String {
    let at = Exits::next_instruction(vcpu.fd());
    let fault = match error {
        RunError::Kvm(errno) => Some(GuestFault::of_failed_run(vcpu.fd_mut(), *errno)),
        _ => None,
    };
    match fault {
        Some(GuestFault::Revoked { gpa, .. }) => {
            format!("no device answers at {gpa:#x}, which the guest accessed at {at:#x}")
        }
        _ => format!("KVM_RUN failed at {at:#x}: {error}"),
    }
}
