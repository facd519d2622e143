// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The addresses that the host bridge decodes.

use memory_model::AddrRange;
use vfio_private::BarKind;

use crate::boot::layout::{Layout, PCI_PORT_WINDOW, PCI_WINDOW_32};

/// The addresses that the host bridge passes on to the bus. The firmware's tables list
/// the same to the guest.
///
/// A BAR shows only where all of it is in a window. So wherever a guest places a BAR,
/// it can hide another BAR, and neither RAM nor a device outside of the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciWindows(Vec<(BarKind, AddrRange)>);

impl PciWindows {
    /// The windows of a machine.
    pub fn new(layout: &Layout) -> Self {
        let below = AddrRange::new(PCI_WINDOW_32.0, PCI_WINDOW_32.1.into());
        let (first, ports) = PCI_PORT_WINDOW;
        let ports = AddrRange::new(first.into(), ports.into());
        let above = Some(layout.pci_window_64);
        let memory = [below, above].into_iter().flatten();
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
