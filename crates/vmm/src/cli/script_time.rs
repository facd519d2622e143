// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long a script may run on the simulated KVM. A step is cheap or moves
//! thousands of regions, and which it is depends on all steps before it: so time
//! is what is measured. Processor time, because it does not depend on what else
//! the machine does.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The time that this process may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScriptTime {
    limit: Option<Duration>,
}

/// The script takes too long.
#[derive(Debug, thiserror::Error)]
#[error(
    "{machine}: step {step} was not run: the steps before it took {} s of processor time or more (--sim-seconds)",
    limit.as_secs()
)]
pub(super) struct OutOfTime {
    machine: String,
    step: usize,
    limit: Duration,
}

impl ScriptTime {
    /// Without a limit.
    pub(super) const UNLIMITED: Self = Self { limit: None };

    /// At most so many seconds.
    pub(super) fn seconds(seconds: u64) -> Self {
        let limit = Some(Duration::from_secs(seconds));
        Self { limit }
    }

    /// Whether there is time for this step of the machine.
    pub(super) fn check(self, machine: &str, step: usize) -> Result<(), OutOfTime> {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let used = Duration::from_secs(used.tv_sec.unsigned_abs());
        match self.limit {
            Some(limit) if used >= limit => Err(OutOfTime {
                machine: machine.to_string(),
                step,
                limit,
            }),
            _ => Ok(()),
        }
    }
}
