// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The threads of the vCPUs: each runs the guest and answers its exits by the view
//! that was current when it left the guest.

use std::ptr::NonNull;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use kvm_bindings::{
    KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use kvm_slots::Errno;
use kvm_slots::exit::GuestFault;
use kvm_slots::uapi::HYPERCALL_MAP_GPA_RANGE;
use kvm_slots::vcpu_gate::{GatedVcpu, RunError, RunOutcome};
use memory_model::{FlatView, ViewReader};

use super::architecture::ExitHandler;
use super::bus::{self, Handle};
use super::conversions::Conversions;
use super::native::Exits;
use super::outcome::{End, Outcome};
use crate::guest::no_device::no_device;

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
    loop {
        let result = vcpu.run_with(|| (memory.view(), ports.view()));
        let stop = match result {
            Ok((RunOutcome::Exit(exit), Some((memory, ports)))) => match PortExit::new(exit) {
                Ok(port) => {
                    // SAFETY: it is the exit of this vCPU, which has not run since.
                    unsafe { port.answer(vcpu.fd_mut(), ports) };
                    None
                }
                Err(exit) => answer(exit, memory, context),
            },
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
    ExitContext {
        conversions, own, ..
    }: &ExitContext,
) -> Option<Stop> {
    let fault = |text: String| Some(Stop::Outcome(Outcome::Fault(text)));
    match exit {
        VcpuExit::MmioRead(gpa, data) => bus::read(memory, gpa, data),
        VcpuExit::MmioWrite(gpa, data) => bus::write(memory, gpa, data),
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

/// An exit on accesses to a port, with their bytes in the memory that KVM shares. A string
/// instruction has several accesses in one exit; for `rep ins`, KVM reads ahead.
///
/// kvm-ioctls does not report the width of an access, and [`kvm_run`] has it only once the
/// exit no longer borrows the vCPU.
enum PortExit {
    In(u16, NonNull<[u8]>),
    Out(u16, NonNull<[u8]>),
}

impl PortExit {
    /// The exit, without its borrow of the vCPU; or another exit.
    fn new(exit: VcpuExit<'_>) -> Result<Self, VcpuExit<'_>> {
        match exit {
            VcpuExit::IoIn(port, data) => Ok(Self::In(port, NonNull::from(data))),
            VcpuExit::IoOut(port, data) => Ok(Self::Out(port, NonNull::from(data))),
            exit => Err(exit),
        }
    }

    /// Answers the exit.
    ///
    /// # Safety
    /// This is the latest exit of `vcpu`, and `vcpu` has not run since.
    unsafe fn answer(self, vcpu: &mut VcpuFd, ports: &FlatView<Handle>) {
        let width = access_width(vcpu.get_kvm_run());
        match self {
            // SAFETY: kvm-ioctls made the pointer from a slice of the vCPU's shared pages, which
            // are mapped as long as `vcpu`. The slice is behind `kvm_run`, so the reference above
            // did not overlap it. `vcpu` is borrowed exclusively, and the kernel accesses the
            // pages only while it runs: no one else does until this returns.
            Self::In(port, mut data) => load(ports, port, width, unsafe { data.as_mut() }),
            // SAFETY: as above.
            Self::Out(port, data) => store(ports, port, width, unsafe { data.as_ref() }),
        }
    }
}

/// The number of bytes of each access of the latest exit, which is `KVM_EXIT_IO`.
fn access_width(run: &kvm_run) -> usize {
    // SAFETY: any bytes of the union are valid numbers.
    let io = unsafe { run.__bindgen_anon_1.io };
    usize::from(io.size).max(1)
}

/// Loads from a port, once for each `width` bytes.
fn load(ports: &FlatView<Handle>, port: u16, width: usize, data: &mut [u8]) {
    for data in data.chunks_mut(width) {
        bus::read(ports, port.into(), data);
    }
}

/// Stores to a port, once for each `width` bytes.
fn store(ports: &FlatView<Handle>, port: u16, width: usize, data: &[u8]) {
    for data in data.chunks(width) {
        bus::write(ports, port.into(), data);
    }
}

/// The error of `KVM_RUN` in words.
fn failed(vcpu: &mut GatedVcpu, error: &RunError) -> String {
    let at = Exits::next_instruction(vcpu.fd());
    let fault = match error {
        RunError::Kvm(Errno::ENODEV) => Some(no_device(vcpu.fd_mut().get_kvm_run())),
        _ => None,
    };
    match fault {
        Some(GuestFault::Revoked { gpa, .. }) => {
            format!("no device answers at {gpa:#x}, which the guest accessed at {at:#x}")
        }
        _ => format!("KVM_RUN failed at {at:#x}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use memory_model::{MemoryModel, Region};

    use super::super::bus::TrapDevice;
    use super::*;

    /// Keeps the offset and the number of bytes of each access.
    #[derive(Debug, Default)]
    struct Accesses(Mutex<Vec<(u64, usize)>>);

    impl TrapDevice for Accesses {
        fn read(&self, offset: u64, data: &mut [u8]) {
            self.0.lock().unwrap().push((offset, data.len()));
            data.fill(0x5a);
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.len()));
        }
    }

    #[test]
    fn a_string_instruction_accesses_one_port_with_one_width() {
        let device = Arc::<Accesses>::default();
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let region = Region::mmio("ports", 1 << 16).with_handle(Handle::device(device.clone()));
        let region = t.add(region).unwrap();
        t.commit().unwrap();
        let space = model.add_space("ports", region).unwrap();
        let view = model.view(space);
        let accesses = || std::mem::take(&mut *device.0.lock().unwrap());

        let mut data = [0; 12];
        load(&view, 0xcfc, 4, &mut data);
        assert_eq!(accesses(), [(0xcfc, 4); 3]);
        assert_eq!(data, [0x5a; 12]);
        load(&view, 0x3f8, 1, &mut data[..2]);
        assert_eq!(accesses(), [(0x3f8, 1); 2]);
        store(&view, 0x3f8, 2, &data[..4]);
        assert_eq!(accesses(), [(0x3f8, 2); 2]);
    }

    #[test]
    fn the_width_of_an_access_is_that_of_kvm_and_never_0() {
        let mut run = kvm_run::default();
        assert_eq!(access_width(&run), 1);
        run.__bindgen_anon_1.io.size = 4;
        assert_eq!(access_width(&run), 4);
    }
}
