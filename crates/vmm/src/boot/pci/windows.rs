// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The addresses that the host bridge decodes.

use memory_model::AddrRange;
use vfio_private::BarKind;

/// The addresses that the host bridge passes on to the bus. The firmware's tables list
/// the same to the guest.
///
/// A BAR shows only where all of it is in a window. So wherever a guest places a BAR,
/// it can hide another BAR, and neither RAM nor a device outside of the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciWindows(Vec<(BarKind, AddrRange)>);

impl PciWindows {
    /// Windows for memory BARs, and one for I/O BARs if there is any.
    pub fn new(memory: impl IntoIterator<Item = AddrRange>, ports: Option<AddrRange>) -> Self {
        let memory = memory.into_iter();
        let memory = memory.map(|window| (BarKind::Memory, window));
        let ports = ports.map(|window| (BarKind::Io, window));
        Self(memory.chain(ports).collect())
    }

    /// Whether all of `range` is in one window.
    pub fn cover(&self, kind: BarKind, range: AddrRange) -> bool {
        let mut windows = self.0.iter();
        windows.any(|(of, window)| *of == kind && window.covers(range))
    }
}
