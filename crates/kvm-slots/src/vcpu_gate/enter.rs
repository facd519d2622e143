// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Enters the guest through the gate, or kicks a vCPU.

use super::entry::{Inside, VcpuEntry};
use super::presence::Tid;
use super::shared::{Shared, Waited};

/// The purpose of entering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To run the guest.
    Run,
    /// To complete an exit, which a kick need not end: it is short.
    Complete,
}

/// The reason why a vCPU did not enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotEntered {
    Kicked,
    Stopped,
}

impl VcpuEntry {
    /// Waits while the gate is held, and marks the vCPU as inside, on the
    /// calling thread, whose number is `thread`.
    pub(super) fn enter(
        &self,
        shared: &Shared,
        thread: Tid,
        purpose: Purpose,
    ) -> Result<Inside<'_>, NotEntered> {
        loop {
            let mut presence = self.lock();
            // A holder closes the gate before it takes this lock: either this
            // sees the gate closed, or the holder sees the vCPU inside.
            if !shared.is_closed() {
                if purpose == Purpose::Run && presence.take_kick() {
                    return Err(NotEntered::Kicked);
                }
                presence.enter(thread);
                if purpose == Purpose::Complete {
                    presence.request_exit();
                    self.run_page.set_immediate_exit(true);
                }
                return Ok(Inside(self));
            }
            drop(presence);
            match shared.wait_until_open(|| purpose == Purpose::Run && self.lock().take_kick()) {
                Waited::Open => {}
                Waited::Kicked => return Err(NotEntered::Kicked),
                Waited::Stopped => return Err(NotEntered::Stopped),
            }
        }
    }

    /// Makes the attempt to enter that waits now fail, or else the next one.
    pub(super) fn kick(&self, shared: &Shared) {
        self.lock().kick();
        self.request_exit(shared.signal());
        shared.wake_waiting();
    }
}
