// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The gate that the VMM holds.

use std::sync::Arc;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::SIGRTMIN;

use super::error::GateError;
use super::shared::Shared;
use super::signal::ExitSignal;
use super::vcpu::GatedVcpu;
use crate::slots::hold::HoldVcpus;

/// What [`VcpuGate::new`] adds to `SIGRTMIN`: other libraries tend to use
/// `SIGRTMIN` itself.
const DEFAULT_OFFSET: i32 = 5;

/// Holds vCPUs out of the guest. Clones are the same gate.
///
/// The gate knows the vCPUs that [`vcpu`](Self::vcpu) was given, and no others:
/// give it all vCPUs of the VMs whose memory it protects. See the
/// [module](super) for an example.
#[derive(Clone, Debug)]
pub struct VcpuGate {
    shared: Arc<Shared>,
}

impl VcpuGate {
    /// A gate without vCPUs that uses the real-time signal `SIGRTMIN + 5`.
    ///
    /// # Errors
    /// As for [`with_signal`](Self::with_signal).
    pub fn new() -> Result<Self, GateError> {
        Self::with_signal(SIGRTMIN() + DEFAULT_OFFSET)
    }

    /// A gate without vCPUs that uses this real-time signal. Several gates may
    /// use the same one.
    ///
    /// The signal's handler, which does nothing, stays installed in the process.
    ///
    /// # Errors
    /// [`GateError::NotRealTime`], [`GateError::SignalInUse`] and
    /// [`GateError::Handler`].
    pub fn with_signal(signal: i32) -> Result<Self, GateError> {
        let signal = ExitSignal::install(signal)?;
        Ok(Self {
            shared: Arc::new(Shared::new(signal)),
        })
    }

    /// Adds a vCPU to the gate. From now on it is held whenever the gate is held,
    /// until the result is dropped.
    ///
    /// # Errors
    /// [`GateError::MapKvmRun`]; `vcpu` is closed.
    pub fn vcpu(&self, vcpu: VcpuFd) -> Result<GatedVcpu, GateError> {
        GatedVcpu::new(vcpu, Arc::clone(&self.shared))
    }

    /// Returns once no vCPU is in the guest, and none will enter it before the
    /// result is dropped.
    ///
    /// Holds nest, and any number of threads can hold at once: the vCPUs run
    /// again when the last hold ends. A vCPU thread may hold while it handles
    /// an exit. It must drop the result before its next
    /// [`run`](GatedVcpu::run), which would wait for that.
    pub fn hold(&self) -> HeldVcpus {
        self.shared.hold();
        HeldVcpus {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Makes each vCPU's current or next [`run`](GatedVcpu::run) return
    /// [`Kicked`](super::RunOutcome::Kicked), as
    /// [`VcpuKicker::kick`](super::VcpuKicker::kick) does. Does not wait for
    /// that.
    pub fn kick_all(&self) {
        for entry in self.shared.entries().iter() {
            entry.kick(&self.shared);
        }
    }

    /// Makes every [`run`](GatedVcpu::run), current and future, return
    /// [`Stopped`](super::RunOutcome::Stopped): of vCPUs in the guest, of those
    /// that wait while the gate is held, and of those made later. Does not wait
    /// for that; the caller may be a vCPU thread.
    ///
    /// A stopped gate cannot be started again. It can still be held.
    pub fn stop(&self) {
        self.shared.stop();
    }
}

impl HoldVcpus for VcpuGate {
    type Held = HeldVcpus;

    fn hold(&self) -> HeldVcpus {
        Self::hold(self)
    }
}

/// Keeps the vCPUs of a [`VcpuGate`] out of the guest until it is dropped, on
/// any thread.
#[derive(Debug)]
#[must_use = "the vCPUs run again when this is dropped"]
pub struct HeldVcpus {
    shared: Arc<Shared>,
}

impl Drop for HeldVcpus {
    fn drop(&mut self) {
        self.shared.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_kept_apart_from_its_gate_and_ended_on_another_thread() {
        // The trait that a `SlotListener` requires.
        fn hold<G: HoldVcpus + Send + Sync>(gate: &G) -> G::Held {
            gate.hold()
        }
        let gate = VcpuGate::new().unwrap();
        let held = hold(&gate);
        drop(gate);
        std::thread::spawn(move || drop(held)).join().unwrap();
    }
}
