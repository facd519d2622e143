// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Why a device cannot be shown to a guest.

use thiserror::Error;

use crate::bar::{BarIndex, BarKind};
use crate::config::ConfigError;

/// A device that cannot be emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EmulateError {
    /// The device's configuration space is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A BAR that is given twice, or whose register is the upper half of another.
    #[error("{bar} is given twice, or is the upper half of another")]
    Taken {
        /// The BAR.
        bar: BarIndex,
    },
    /// A BAR of another kind than its register.
    #[error("{bar} is given as {given:?}, and its register says {register:?}")]
    Kind {
        /// The BAR.
        bar: BarIndex,
        /// The given kind.
        given: BarKind,
        /// The kind by its register.
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
