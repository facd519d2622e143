// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest's MSI-X table and pending bits (PCI Express Base Specification, 7.7.2).

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::effect::MsixControl;
use super::msi::Message;
use crate::bar::{BarIndex, BarRange};
use crate::msix::Msix;

/// Bytes of a vector: address, data, control.
const ENTRY: usize = 16;

/// Where in a vector its mask is, in the lowest bit.
const CONTROL: usize = 12;
const MASKED: u8 = 1;

/// A vector after a reset: masked.
const RESET: [u8; ENTRY] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, MASKED, 0, 0, 0];

/// Which bits of a vector can be written. Messages are aligned to four bytes.
const WRITABLE: [u8; ENTRY] = [
    0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, MASKED, 0, 0, 0,
];

/// One thing that the VMM must do for the guest's MSI-X.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: a VMM has to carry each of them out, or interrupts are lost.
pub enum MsixChange {
    /// MSI-X is on. No vector has a route yet.
    Enabled {
        /// How many vectors to allocate at the least: up to the last one that is not masked. The
        /// guest may unmask others later.
        vectors: u16,
    },
    /// MSI-X is off, and no vector has a route any more.
    Disabled,
    /// A vector goes to the guest as this message.
    Routed {
        /// The vector.
        vector: u16,
        /// The message of its route.
        message: Message,
    },
    /// A vector is masked. Pass its interrupts to [`MsixTable::signal`].
    Unrouted {
        /// The vector.
        vector: u16,
    },
    /// A message that was pending is to be sent now.
    Deliver {
        /// The vector.
        vector: u16,
        /// What to send.
        message: Message,
    },
}

/// The effects of a trapped write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "the VMM carries the effects out, or interrupts and writes are lost"]
pub struct Trapped {
    /// What to do.
    pub changes: Vec<MsixChange>,
    /// The positions in the data that are the device's own registers, which share a page with the
    /// structures: to be written to the device.
    pub device: Vec<Range<usize>>,
}

/// What a byte of a BAR belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Byte {
    Table(usize),
    Pending(usize),
    Device,
}

/// A guest's MSI-X table and pending bits.
///
/// It has no device. Pass accesses to the trapped pages of a BAR to [`read`](Self::read) and
/// [`write`](Self::write), the control register's bits to [`set_control`](Self::set_control), and
/// interrupts of a vector without a route to [`signal`](Self::signal).
///
/// ```
/// use vfio_private::emulate::{Message, MsixChange, MsixControl, MsixTable};
/// use vfio_private::{BarIndex, Msix};
///
/// let bar = BarIndex::new(3)?;
/// let mut table = MsixTable::new(Msix::with_vectors(5, (bar, 0), (bar, 0x2000))?);
/// let on = MsixControl { enabled: true, function_mask: false };
/// assert_eq!(table.set_control(on), [MsixChange::Enabled { vectors: 1 }]);
///
/// // The guest sets up vector 2, and unmasks it last.
/// let write = table.write(bar, 0x20, &0xfee0_0000_u64.to_le_bytes());
/// assert_eq!(write.changes, []);
/// let write = table.write(bar, 0x28, &0x0000_0000_0000_4021_u64.to_le_bytes());
/// let message = Message { address: 0xfee0_0000, data: 0x4021 };
/// assert_eq!(write.changes, [MsixChange::Routed { vector: 2, message }]);
/// # Ok::<(), vfio_private::InputError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsixTable {
    place: Msix,
    entries: Vec<[u8; ENTRY]>,
    /// A bit for each vector, the first in the lowest bit of the first byte.
    pending: Vec<u8>,
    control: MsixControl,
}

impl MsixTable {
    /// Structures at the place where the guest finds them: by [`Relocation`](crate::Relocation), or the
    /// device's own place. All vectors are masked, and MSI-X is off.
    pub fn new(place: Msix) -> Self {
        // `Msix` has at most 2048 vectors.
        let len = |at: BarRange| usize::try_from(at.range.size()).unwrap_or(0);
        let vectors = (len(place.table) / ENTRY).min(2048);
        Self {
            place,
            entries: vec![RESET; vectors],
            pending: vec![0; vectors.div_ceil(64) * 8],
            control: MsixControl::default(),
        }
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> u16 {
        u16::try_from(self.entries.len()).unwrap_or(u16::MAX)
    }

    /// Fills in bytes of the structures, of a trapped read at `offset` of a BAR. Returns the positions
    /// in `data` that are the device's own registers, which are not touched.
    #[must_use = "the device's own registers are still to be read"]
    pub fn read(&self, bar: BarIndex, offset: u64, data: &mut [u8]) -> Vec<Range<usize>> {
        for (at, byte) in (0_u64..).zip(data.iter_mut()) {
            match self.byte(bar, offset.checked_add(at)) {
                Byte::Table(at) => *byte = self.entries.as_flattened().get(at).map_or(0, |b| *b),
                Byte::Pending(at) => *byte = self.pending.get(at).map_or(0, |b| *b),
                Byte::Device => {}
            }
        }
        self.devices(bar, offset, data.len())
    }

    /// Carries out a trapped write at `offset` of a BAR. Pending bits cannot be written.
    pub fn write(&mut self, bar: BarIndex, offset: u64, data: &[u8]) -> Trapped {
        let mut touched: Vec<(u16, Option<Message>)> = Vec::new();
        for (at, new) in (0_u64..).zip(data) {
            let Byte::Table(at) = self.byte(bar, offset.checked_add(at)) else {
                continue;
            };
            let vector = u16::try_from(at / ENTRY).unwrap_or(u16::MAX);
            if touched.last().is_none_or(|(last, _)| *last != vector) {
                touched.push((vector, self.route(vector)));
            }
            let writable = WRITABLE.get(at % ENTRY).map_or(0, |bits| *bits);
            if let Some(byte) = self.entries.as_flattened_mut().get_mut(at) {
                *byte = *byte & !writable | new & writable;
            }
        }
        let mut changes = Vec::new();
        for (vector, old) in touched {
            self.follow(vector, old, &mut changes);
        }
        Trapped {
            changes,
            device: self.devices(bar, offset, data.len()),
        }
    }

    /// Follows the control register. Pending messages are dropped when MSI-X is switched off.
    #[must_use = "the VMM carries the changes out, or interrupts are lost"]
    pub fn set_control(&mut self, control: MsixControl) -> Vec<MsixChange> {
        let old: Vec<_> = (0..self.vectors()).map(|v| self.route(v)).collect();
        let was = core::mem::replace(&mut self.control, control).enabled;
        let mut changes = Vec::new();
        match (was, control.enabled) {
            (true, false) => {
                self.pending.fill(0);
                return vec![MsixChange::Disabled];
            }
            (false, true) => {
                let vectors = self.needed();
                changes.push(MsixChange::Enabled { vectors });
            }
            _ => {}
        }
        for (vector, old) in (0..).zip(old) {
            self.follow(vector, old, &mut changes);
        }
        changes
    }

    /// All vectors are masked, and MSI-X is off, as after a reset.
    #[must_use = "the VMM carries the changes out, or routes of the guest stay"]
    pub fn reset(&mut self) -> Vec<MsixChange> {
        let changes = self.set_control(MsixControl::default());
        self.entries.fill(RESET);
        changes
    }

    /// Handles an interrupt of a vector from the device. Returns the message for the guest; `None` if
    /// the vector is now pending, if MSI-X is off, or if there is no such vector.
    #[must_use = "the message is still to be sent to the guest"]
    pub fn signal(&mut self, vector: u16) -> Option<Message> {
        let route = self.route(vector);
        if route.is_none() && self.control.enabled && vector < self.vectors() {
            let (at, bit) = pending_bit(vector);
            if let Some(byte) = self.pending.get_mut(at) {
                *byte |= bit;
            }
        }
        route
    }

    /// The message that a vector sends to the guest; `None` if it is masked, alone or with all others,
    /// if MSI-X is off, or if there is no such vector.
    pub fn route(&self, vector: u16) -> Option<Message> {
        let entry = self.entries.get(usize::from(vector))?;
        let is_open = self.control.enabled && !self.control.function_mask;
        let [address @ .., _, _, _, _, _, _, _, _] = *entry;
        let [_, _, _, _, _, _, _, _, d0, d1, d2, d3, mask, ..] = *entry;
        (is_open && mask & MASKED == 0).then(|| Message {
            address: u64::from_le_bytes(address),
            data: u32::from_le_bytes([d0, d1, d2, d3]),
        })
    }

    /// Whether the message of a vector is pending.
    pub fn is_pending(&self, vector: u16) -> bool {
        let (at, bit) = pending_bit(vector);
        self.pending.get(at).is_some_and(|byte| byte & bit != 0)
    }

    /// How many vectors, from the first on, hold all that are not masked by themselves; at least 1.
    fn needed(&self) -> u16 {
        let open = |entry: &[u8; ENTRY]| entry[CONTROL] & MASKED == 0;
        let last = self.entries.iter().rposition(open).unwrap_or(0);
        u16::try_from(last + 1).unwrap_or(u16::MAX)
    }

    /// What is to be done for a vector whose route was `old`.
    fn follow(&mut self, vector: u16, old: Option<Message>, changes: &mut Vec<MsixChange>) {
        let new = self.route(vector);
        match new {
            Some(message) if old != new => changes.push(MsixChange::Routed { vector, message }),
            None if old.is_some() => changes.push(MsixChange::Unrouted { vector }),
            _ => {}
        }
        let (at, bit) = pending_bit(vector);
        let pending = self.pending.get_mut(at).filter(|byte| **byte & bit != 0);
        if let (Some(message), Some(byte)) = (new, pending) {
            *byte &= !bit;
            changes.push(MsixChange::Deliver { vector, message });
        }
    }

    fn devices(&self, bar: BarIndex, offset: u64, len: usize) -> Vec<Range<usize>> {
        super::runs(len, |at| {
            self.byte(bar, offset.checked_add(at as u64)) == Byte::Device
        })
    }

    /// What is at `offset` of a BAR. Where a device has both structures, it is the table.
    fn byte(&self, bar: BarIndex, offset: Option<u64>) -> Byte {
        let within = |place: BarRange| {
            let offset = offset.filter(|at| place.bar == bar && place.range.contains(*at))?;
            usize::try_from(offset - place.range.start()).ok()
        };
        let table = within(self.place.table).map(Byte::Table);
        let pending = || within(self.place.pba).map(Byte::Pending);
        table.or_else(pending).unwrap_or(Byte::Device)
    }
}

/// The byte and the bit of a vector.
fn pending_bit(vector: u16) -> (usize, u8) {
    (usize::from(vector / 8), 1 << (vector % 8))
}
