// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One vCPU of a gate, shared between its own thread and other threads.

use std::mem::ManuallyDrop;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::presence::Presence;
use super::run_page::RunPage;
use super::signal::{Delivery, ExitSignal};

/// How long to wait before resending a signal that the kernel had no room for.
const RESEND: Duration = Duration::from_millis(1);

/// One vCPU of a gate. It has a lock of its own, so that vCPUs which enter and
/// leave do not wait for each other.
#[derive(Debug)]
pub(super) struct VcpuEntry {
    presence: Mutex<Presence>,
    /// The vCPU left the guest when asked to.
    left: Condvar,
    /// Written only with `presence` locked, and only for a vCPU inside.
    pub(super) run_page: Arc<RunPage>,
}

impl VcpuEntry {
    pub(super) fn new(run_page: RunPage) -> Self {
        Self {
            presence: Mutex::default(),
            left: Condvar::new(),
            run_page: Arc::new(run_page),
        }
    }

    /// Asks the vCPU to leave the guest if it is there, without waiting for it.
    pub(super) fn request_exit(&self, signal: ExitSignal) {
        let mut presence = self.lock();
        while let Some(thread) = presence.request_exit() {
            // Before the signal: if the signal arrives too early to end KVM_RUN,
            // KVM_RUN still sees this byte.
            self.run_page.set_immediate_exit(true);
            match signal.send(thread) {
                Delivery::Queued => presence.signalled(),
                // The thread ended without unwinding: it is not in the guest.
                Delivery::NoThread => {
                    self.mark_outside(&mut presence);
                }
                Delivery::TryAgain => {
                    let waited = self.left.wait_timeout(presence, RESEND);
                    presence = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Returns once the vCPU is not in the guest.
    pub(super) fn wait_until_left(&self) {
        let inside = |presence: &mut Presence| presence.is_inside();
        drop(self.left.wait_while(self.lock(), inside));
    }

    fn mark_outside(&self, presence: &mut Presence) -> bool {
        let requested = presence.leave();
        if requested {
            self.run_page.set_immediate_exit(false);
            self.left.notify_all();
        }
        requested
    }

    /// A panic elsewhere cannot have left this half changed.
    pub(super) fn lock(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A vCPU that is marked as inside, until this is dropped.
#[derive(Debug)]
pub(super) struct Inside<'a>(pub(super) &'a VcpuEntry);

impl Inside<'_> {
    /// Marks the vCPU as outside. Returns whether it was asked to leave.
    pub(super) fn leave(self) -> bool {
        let Self(entry) = *ManuallyDrop::new(self);
        entry.mark_outside(&mut entry.lock())
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.mark_outside(&mut self.0.lock());
    }
}
