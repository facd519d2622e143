// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Emulates configuration space and the MSI-X table for a guest.
//!
//! [`GuestConfig`] is the guest's configuration space: BARs that the guest sizes and moves, and the
//! controls of MSI and MSI-X. [`MsixTable`] is the MSI-X table with its pending bits, in the trapped
//! pages that hold them. Both are state without a device. A read fills in the emulated bytes, and a
//! write returns what the VMM must do, in order. All other bytes belong to the device, and go through
//! VFIO, which guards them.
//!
//! ```
//! use vfio_private::emulate::{ConfigEffect, GuestConfig};
//! use vfio_private::{Bar, BarIndex, BarKind, ReachEvent};
//!
//! # let mut config = vec![0; 256];
//! # config[..4].copy_from_slice(&[0x34, 0x12, 0xe8, 0x11]);
//! // `config` is what VFIO shows: here a device with one BAR, of 1 MiB by VFIO's region info.
//! let index = BarIndex::new(0)?;
//! let mut guest = GuestConfig::new(&config, &[Bar::new(index, BarKind::Memory, 0x10_0000)?])?;
//!
//! // The guest reads the size, and chooses an address.
//! let effects = guest.write(0x10, &[0xff; 4]);
//! assert_eq!(effects, []);
//! let mut register = [0; 4];
//! guest.read(0x10, &mut register);
//! assert_eq!(register, 0xfff0_0000_u32.to_le_bytes());
//! let effects = guest.write(0x10, &0xe000_0000_u32.to_le_bytes());
//! let moved = ConfigEffect::BarMoved { bar: index, to: Some(0xe000_0000) };
//! assert_eq!(effects, [moved]);
//!
//! // It switches memory decoding on: first the device's register, then the BAR in the guest's memory.
//! let effects = guest.write(4, &[2, 0]);
//! let forward = ConfigEffect::Forward { offset: 4, data: vec![2, 0] };
//! assert_eq!(effects, [forward, ConfigEffect::Reach(ReachEvent::Restored)]);
//! assert_eq!(guest.shown(index), Some(0xe000_0000));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What this module does not do
//!
//! The expansion ROM's register, extended configuration space and all other capabilities are left to
//! VFIO. No interrupt is delivered to a guest: a [`Message`] is what a KVM route needs.

mod bars;
mod config;
mod effect;
mod error;
mod msi;
mod msix_table;
mod registers;

use alloc::vec::Vec;
use core::ops::Range;

pub use config::GuestConfig;
pub use effect::{ConfigEffect, MsixControl};
pub use error::EmulateError;
pub use msi::{Message, MsiState};
pub use msix_table::{MsixChange, MsixTable, Trapped};

/// The runs of the positions below `len` that are of interest.
fn runs(len: usize, is_one: impl Fn(usize) -> bool) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for at in (0..len).filter(|at| is_one(*at)) {
        match runs.last_mut() {
            Some(last) if last.end == at => last.end += 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}
