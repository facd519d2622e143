// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Why a device cannot be shown to a guest.

use thiserror::Error;

use crate::bar::{BarIndex, BarKind};
use crate::config::ConfigError;

/// What does not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EmulateError {
    /// The device's configuration space makes no sense.
    #[error("configuration space")]
    Config(#[from] ConfigError),
    /// A BAR that is given twice, or whose register is the upper half of another.
    #[error("{bar} is given twice, or is the upper half of another")]
    Taken {
        /// The BAR.
        bar: BarIndex,
    },
    /// A BAR of another kind than its register says.
    #[error("{bar} is given as {given:?}, and its register says {register:?}")]
    Kind {
        /// The BAR.
        bar: BarIndex,
        /// What is given.
        given: BarKind,
        /// What the register says.
        register: BarKind,
    },
    /// A size that the BAR's register cannot express.
    #[error("{bar} cannot have {size:#x} bytes: its register has {bits} bits")]
    Size {
        /// The BAR.
        bar: BarIndex,
        /// The size in bytes.
        size: u64,
        /// The width of the register or pair of registers.
        bits: u32,
    },
}
