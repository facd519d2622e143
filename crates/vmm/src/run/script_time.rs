// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The limit on a script's processor time. The cost of a step depends on the steps
//! before it, so steps cannot be counted instead. Processor time does not depend
//! on other processes.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The processor time that this process may use.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScriptTime {
    limit: Option<Duration>,
}

/// The script takes too long.
#[derive(Debug, thiserror::Error)]
#[error(
    "step {step} was not run: {} s of processor time or more were used before it (--seconds)",
    limit.as_secs()
)]
pub struct OutOfTime {
    /// The number of the step, from 1 on.
    pub step: usize,
    /// How long the script may take.
    pub limit: Duration,
}

impl ScriptTime {
    /// Without a limit.
    pub const UNLIMITED: Self = Self { limit: None };

    /// At most this many seconds.
    pub fn seconds(seconds: u64) -> Self {
        let limit = Some(Duration::from_secs(seconds));
        Self { limit }
    }

    /// Whether there is time for this step.
    ///
    /// # Errors
    /// [`OutOfTime`].
    pub fn check(self, step: usize) -> Result<(), OutOfTime> {
        match self.exceeded() {
            None => Ok(()),
            Some(limit) => Err(OutOfTime { step, limit }),
        }
    }

    /// The limit, if the process has reached it.
    pub fn exceeded(self) -> Option<Duration> {
        let limit = self.limit?;
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let used = Duration::from_secs(used.tv_sec.unsigned_abs());
        (used >= limit).then_some(limit)
    }
}
