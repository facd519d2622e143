// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vCPU behind a gate, owned by its thread.

use std::sync::{Arc, Weak};

use kvm_ioctls::{VcpuExit, VcpuFd};

use super::enter::{NotEntered, Purpose};
use super::entry::VcpuEntry;
use super::error::{GateError, RunError};
use super::run_page::RunPage;
use super::shared::Shared;
use crate::vm::errno::Errno;

/// A vCPU that enters the guest only while its [`VcpuGate`](super::VcpuGate) is
/// not held.
///
/// It may move between threads. A holder signals the thread that is in
/// [`run`](Self::run), and never one that is elsewhere or has ended.
#[derive(Debug)]
pub struct GatedVcpu {
    registration: Registration,
    fd: VcpuFd,
}

/// How a [`run`](GatedVcpu::run) ended.
// Exhaustive: a vCPU's thread has to handle each of them.
#[derive(Debug)]
pub enum RunOutcome<'a> {
    /// The guest left with an exit that the VMM handles.
    Exit(VcpuExit<'a>),
    /// The vCPU was [kicked](VcpuKicker::kick). The latest exit may not be
    /// complete: see [`complete`](GatedVcpu::complete).
    Kicked,
    /// The gate was [stopped](super::VcpuGate::stop).
    Stopped,
    /// A signal arrived that is not the gate's: `KVM_RUN` failed with `EINTR`.
    /// Run again.
    Interrupted,
}

/// How a [`complete`](GatedVcpu::complete) ended.
// Exhaustive: a vCPU's thread has to handle each of them.
#[derive(Debug)]
pub enum CompleteOutcome<'a> {
    /// The latest exit is complete, if there was one. The vCPU's registers are
    /// as the guest would see them.
    Complete,
    /// Completing it led to another exit. Handle that exit and complete it too.
    Exit(VcpuExit<'a>),
    /// The gate was [stopped](super::VcpuGate::stop): nothing was done.
    Stopped,
}

impl GatedVcpu {
    pub(super) fn new(fd: VcpuFd, shared: Arc<Shared>) -> Result<Self, GateError> {
        let run_page = RunPage::map(&fd).map_err(GateError::MapKvmRun)?;
        let registration = Registration::new(VcpuEntry::new(run_page), shared);
        Ok(Self { registration, fd })
    }

    /// Runs the guest until it exits; `KVM_RUN`. Waits first while the gate is
    /// held, and starts over when a hold interrupts `KVM_RUN`: callers notice
    /// only the time that a hold takes.
    ///
    /// # Errors
    /// [`RunError`]. `EINTR` is not among them: see [`RunOutcome`].
    pub fn run(&mut self) -> Result<RunOutcome<'_>, RunError> {
        let (outcome, _) = self.run_with(|| ())?;
        Ok(outcome)
    }

    /// Same as [`run`](Self::run), but calls `take` before the vCPU counts as
    /// outside, to take the view in which the exit is looked up. A holder waits
    /// for that. So the view was current when the vCPU left the guest, and is
    /// not from a commit that has held the vCPUs since.
    ///
    /// `take` is called once for each exit, on this thread. It must not hold the
    /// gate, nor wait for a holder, which waits for it. Its result is returned
    /// with [`RunOutcome::Exit`].
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    pub fn run_with<T>(
        &mut self,
        take: impl FnOnce() -> T,
    ) -> Result<(RunOutcome<'_>, Option<T>), RunError> {
        let Registration { entry, shared } = &self.registration;
        let thread = shared.signal().unblock()?;
        let fd = &raw mut self.fd;
        loop {
            let inside = match entry.enter(shared, thread, Purpose::Run) {
                Ok(inside) => inside,
                Err(NotEntered::Kicked) => return Ok((RunOutcome::Kicked, None)),
                Err(NotEntered::Stopped) => return Ok((RunOutcome::Stopped, None)),
            };
            // SAFETY: `fd` is a field that `&mut self` borrows for as long as
            // the outcome lives, and is reborrowed once in each turn of the
            // loop. The borrow checker cannot see that a turn which does not
            // return leaves nothing borrowed: its result is an error number.
            let result = unsafe { &mut *fd }.run();
            match result {
                Ok(exit) => {
                    let view = take();
                    inside.leave();
                    return Ok((RunOutcome::Exit(exit), Some(view)));
                }
                Err(error) => match (Errno::from(error), inside.leave()) {
                    // By a hold, a kick or a stop: entering again finds out.
                    (Errno::EINTR, true) => {}
                    (Errno::EINTR, false) => return Ok((RunOutcome::Interrupted, None)),
                    (errno, _) => return Err(RunError::Kvm(errno)),
                },
            }
        }
    }

    /// Completes the latest exit without running the guest: `KVM_RUN` with
    /// `immediate_exit`. Waits first while the gate is held, because KVM may
    /// access the guest's memory for that; kicks do not end it.
    ///
    /// A VMM that saves the vCPU's registers calls this before, as the last
    /// section of `KVM_RUN` in KVM's documentation asks for.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn complete(&mut self) -> Result<CompleteOutcome<'_>, RunError> {
        let Registration { entry, shared } = &self.registration;
        let thread = shared.signal().unblock()?;
        let Ok(inside) = entry.enter(shared, thread, Purpose::Complete) else {
            return Ok(CompleteOutcome::Stopped);
        };
        let result = self.fd.run();
        inside.leave();
        match result {
            Ok(exit) => Ok(CompleteOutcome::Exit(exit)),
            Err(error) => match Errno::from(error) {
                Errno::EINTR => Ok(CompleteOutcome::Complete),
                errno => Err(RunError::Kvm(errno)),
            },
        }
    }

    /// Kicks this vCPU from other threads.
    pub fn kicker(&self) -> VcpuKicker {
        VcpuKicker {
            entry: Arc::downgrade(&self.registration.entry),
            shared: Arc::clone(&self.registration.shared),
        }
    }

    /// The width of this vCPU's accesses to I/O ports, for the thread that answers its
    /// exits.
    pub fn port_width(&self) -> PortWidth {
        PortWidth::of(&self.registration.entry)
    }

    /// The vCPU, for calls that do not run it.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// The vCPU, for calls that need it exclusively, such as `get_kvm_run` and
    /// `coalesced_mmio_read`.
    ///
    /// Do not call [`VcpuFd::run`]: it bypasses the gate, and holders do not know
    /// of it. Do not replace the vCPU, and do not set `immediate_exit`, which
    /// belongs to the gate.
    pub fn fd_mut(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }

    /// Removes the vCPU from the gate, which no longer holds it.
    pub fn into_fd(self) -> VcpuFd {
        self.fd
    }
}

/// Makes a vCPU's [`run`](GatedVcpu::run) return, for reasons of the VMM's own.
/// It does not keep the vCPU open.
#[derive(Clone, Debug)]
pub struct VcpuKicker {
    entry: Weak<VcpuEntry>,
    shared: Arc<Shared>,
}

impl VcpuKicker {
    /// Makes the vCPU's current or next [`run`](GatedVcpu::run) return
    /// [`RunOutcome::Kicked`], even while the gate is held, without waiting for
    /// it. Several kicks before that count as one. Kicking a dropped vCPU does
    /// nothing.
    ///
    /// A kick is never lost. A signal of the VMM's own can be: if it arrives
    /// together with the gate's, `run` attributes the `EINTR` to the gate.
    pub fn kick(&self) {
        if let Some(entry) = self.entry.upgrade() {
            entry.kick(&self.shared);
        }
    }
}

/// A vCPU's place in its gate, released when this is dropped.
#[derive(Debug)]
struct Registration {
    entry: Arc<VcpuEntry>,
    shared: Arc<Shared>,
}

impl Registration {
    fn new(entry: VcpuEntry, shared: Arc<Shared>) -> Self {
        let entry = Arc::new(entry);
        shared.insert(Arc::clone(&entry));
        Self { entry, shared }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.remove(&self.entry);
    }
}

/// The width of a vCPU's accesses to I/O ports, which only x86-64 has.
///
/// A string instruction, such as `rep insw`, is one exit for many accesses to the same
/// port, and `VcpuExit::IoIn` and `VcpuExit::IoOut` have all of their bytes. This says how
/// many bytes each access has. It does not borrow the vCPU, as an exit does.
#[derive(Clone, Debug)]
pub struct PortWidth(Arc<RunPage>);

impl PortWidth {
    pub(super) fn of(entry: &VcpuEntry) -> Self {
        Self(Arc::clone(&entry.run_page))
    }

    /// The number of bytes of each access of the latest exit, if that was an access to a
    /// port: 1, 2 or 4. After other exits, the value has no meaning; it is never 0.
    pub fn get(&self) -> usize {
        usize::from(self.0.port_width()).max(1)
    }
}
