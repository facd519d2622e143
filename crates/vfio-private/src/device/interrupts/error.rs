// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Errors of a device's interrupts.

use std::io;

use thiserror::Error;

use super::InterruptKind;
use crate::device::PciAddress;

/// An error of a device's interrupts. Nothing has changed, unless the variant's docs differ.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InterruptError {
    /// The device, or the host for it, has no interrupts of this kind.
    #[error("{address} has no {kind}")]
    None {
        /// The device.
        address: PciAddress,
        /// The requested kind.
        kind: InterruptKind,
    },
    /// This kind is enabled already, or another one that excludes it: VFIO has one of INTx, MSI and
    /// MSI-X at a time.
    #[error("{address}: {kind} cannot be enabled while {enabled} is")]
    Enabled {
        /// The device.
        address: PciAddress,
        /// The requested kind.
        kind: InterruptKind,
        /// The kind that is enabled.
        enabled: InterruptKind,
    },
    /// An empty list of vectors.
    #[error("{address}: no vector of {kind} is given")]
    Empty {
        /// The device.
        address: PciAddress,
        /// The requested kind.
        kind: InterruptKind,
    },
    /// A vector that the device does not have.
    #[error("{address}: there is no vector {vector} of {kind}, there are {vectors}")]
    NoSuchVector {
        /// The device.
        address: PciAddress,
        /// The kind.
        kind: InterruptKind,
        /// The first one that is missing.
        vector: usize,
        /// How many there are.
        vectors: u16,
    },
    /// A vector that the device has and that was not allocated when the kind was enabled, on a host
    /// that cannot add it: all have to be enabled anew.
    #[error("{address}: vector {vector} of {kind} is past the {allocated} that are allocated")]
    NotAllocated {
        /// The device.
        address: PciAddress,
        /// The kind.
        kind: InterruptKind,
        /// The first one that is missing.
        vector: usize,
        /// How many there are.
        allocated: u16,
    },
    /// The host has fewer vectors left than requested.
    #[error("{address}: the host has {available} vectors of {kind}, not {wanted}")]
    Fewer {
        /// The device.
        address: PciAddress,
        /// The kind.
        kind: InterruptKind,
        /// How many were requested.
        wanted: usize,
        /// How many the host has.
        available: u32,
    },
    /// The vector has no eventfd.
    #[error("{address}: vector {vector} of {kind} has no eventfd")]
    Silent {
        /// The device.
        address: PciAddress,
        /// The kind.
        kind: InterruptKind,
        /// The vector.
        vector: usize,
    },
    /// The kernel refused.
    #[error(
        "{address}: {call} for {count} from {vector} on, of {kind}: {}",
        io::Error::from_raw_os_error(*errno)
    )]
    Kernel {
        /// The device.
        address: PciAddress,
        /// The kind.
        kind: InterruptKind,
        /// The operation.
        call: &'static str,
        /// The first vector that was concerned.
        vector: usize,
        /// How many were concerned.
        count: usize,
        /// The kernel's error number.
        errno: i32,
    },
}

impl InterruptError {
    /// The kernel's error number, where it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}
