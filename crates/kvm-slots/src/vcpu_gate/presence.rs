// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The presence of one vCPU in the guest, as plain data.

/// A thread of this process, by the kernel's number for it.
pub(super) type Tid = libc::pid_t;

/// Whether a vCPU is in the guest, and whether it has been asked to leave.
#[derive(Debug, Default)]
pub(super) struct Presence {
    inside: Option<Tid>,
    exit: ExitRequest,
    kicked: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ExitRequest {
    #[default]
    None,
    /// By `immediate_exit` only.
    Made,
    /// By a signal as well: `KVM_RUN` will return.
    Signalled,
}

impl Presence {
    /// The vCPU is about to run on this thread.
    pub(super) fn enter(&mut self, thread: Tid) {
        self.inside = Some(thread);
    }

    pub(super) fn is_inside(&self) -> bool {
        self.inside.is_some()
    }

    /// Asks the vCPU to leave. Returns the thread to signal, unless the vCPU is
    /// outside or its thread was signalled before.
    pub(super) fn request_exit(&mut self) -> Option<Tid> {
        let thread = self.inside?;
        match self.exit {
            ExitRequest::Signalled => None,
            ExitRequest::None | ExitRequest::Made => {
                self.exit = ExitRequest::Made;
                Some(thread)
            }
        }
    }

    /// The signal is on its way to the vCPU's thread.
    pub(super) fn signalled(&mut self) {
        self.exit = ExitRequest::Signalled;
    }

    /// The vCPU is outside. Returns whether it was asked to leave.
    pub(super) fn leave(&mut self) -> bool {
        self.inside = None;
        std::mem::take(&mut self.exit) != ExitRequest::None
    }

    pub(super) fn kick(&mut self) {
        self.kicked = true;
    }

    /// Whether the vCPU was kicked since this was last asked.
    pub(super) fn take_kick(&mut self) -> bool {
        std::mem::take(&mut self.kicked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vcpu_outside_is_never_signalled() {
        let mut presence = Presence::default();
        assert_eq!(presence.request_exit(), None);
        presence.enter(7);
        assert!(!presence.leave());
        assert_eq!(presence.request_exit(), None);
    }

    #[test]
    fn a_thread_is_signalled_until_a_signal_was_sent_and_then_no_more() {
        let mut presence = Presence::default();
        presence.enter(7);
        assert_eq!(presence.request_exit(), Some(7));
        assert_eq!(presence.request_exit(), Some(7));
        presence.signalled();
        assert_eq!(presence.request_exit(), None);
        assert!(presence.leave());
    }

    #[test]
    fn a_request_ends_with_the_run_that_it_ended() {
        let mut presence = Presence::default();
        presence.enter(7);
        presence.request_exit();
        presence.signalled();
        assert!(presence.leave());
        presence.enter(8);
        assert_eq!(presence.request_exit(), Some(8));
        assert!(presence.leave());
        presence.enter(8);
        assert!(!presence.leave());
    }

    #[test]
    fn a_kick_is_kept_until_it_is_taken_once() {
        let mut presence = Presence::default();
        presence.kick();
        presence.kick();
        presence.enter(7);
        presence.leave();
        assert!(presence.take_kick());
        assert!(!presence.take_kick());
    }
}
