// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The holds of a gate, as plain data.

/// The holds and the stop of a gate.
#[derive(Debug, Default)]
pub(super) struct Holds {
    count: usize,
    stopped: bool,
}

/// The answer to a vCPU that tries to enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Open,
    Held,
    Stopped,
}

impl Holds {
    pub(super) fn add(&mut self) {
        self.count += 1;
    }

    pub(super) fn remove(&mut self) {
        self.count -= 1;
    }

    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(super) fn admission(&self) -> Admission {
        match (self.stopped, self.count) {
            (true, _) => Admission::Stopped,
            (false, 0) => Admission::Open,
            (false, _) => Admission::Held,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_opens_when_the_last_hold_ends() {
        let mut holds = Holds::default();
        assert_eq!(holds.admission(), Admission::Open);
        holds.add();
        holds.add();
        holds.remove();
        assert_eq!(holds.admission(), Admission::Held);
        holds.remove();
        assert_eq!(holds.admission(), Admission::Open);
    }

    #[test]
    fn a_stop_outranks_holds_and_outlasts_them() {
        let mut holds = Holds::default();
        holds.add();
        holds.stop();
        assert_eq!(holds.admission(), Admission::Stopped);
        holds.remove();
        assert_eq!(holds.admission(), Admission::Stopped);
    }
}
