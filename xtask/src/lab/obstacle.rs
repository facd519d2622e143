// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why an environment cannot be made: this machine lacks something, or the project
//! has a fault.

use std::fmt;

/// Why an environment cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Packages or tools are missing and cannot be downloaded.
    Missing(String),
    /// A build takes longer than its time limit.
    TooLong(String),
    /// A patch does not apply, a program does not build, or a file cannot be read or
    /// written.
    Fault(String),
}

impl Obstacle {
    /// Whether it fails a run that does not name the environment.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Fault(_))
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Missing(reason) | Self::TooLong(reason) | Self::Fault(reason)) = self;
        f.write_str(reason)
    }
}

/// What the steps of a build report.
impl From<String> for Obstacle {
    fn from(reason: String) -> Self {
        Self::Fault(reason)
    }
}

impl From<&str> for Obstacle {
    fn from(reason: &str) -> Self {
        Self::Fault(reason.into())
    }
}

impl From<Obstacle> for String {
    fn from(obstacle: Obstacle) -> Self {
        obstacle.to_string()
    }
}
