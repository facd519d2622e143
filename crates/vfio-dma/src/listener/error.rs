// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why mappings do not follow a change.

use crate::apply::{DmaApplyError, DmaNotUndone};
use crate::plan::DmaPlanError;

/// Why the mappings could not follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DmaFollowError {
    /// The planner refused; nothing was touched.
    #[error(transparent)]
    Plan(#[from] DmaPlanError),
    /// A mapping was refused.
    #[error(transparent)]
    Apply(#[from] Box<DmaApplyError>),
    /// The change was aborted and these steps could not be undone.
    #[error("could not be undone: {}", list(.0))]
    NotUndone(Vec<DmaNotUndone>),
}

fn list(steps: &[DmaNotUndone]) -> String {
    let texts: Vec<String> = steps.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl DmaFollowError {
    /// Whether nothing has changed.
    pub(super) fn rolled_back(&self) -> bool {
        match self {
            Self::Plan(_) => true,
            Self::Apply(error) => error.not_undone.is_empty(),
            Self::NotUndone(_) => false,
        }
    }
}
