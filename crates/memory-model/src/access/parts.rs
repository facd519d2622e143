// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The parts of an access that exits to the VMM, each with its responder.

use core::iter::FusedIterator;

use guest_ranges::{AddrRange, HostMemory};

use crate::access::responder::{AccessDirection, Responder};
use crate::view::FlatView;

/// The parts of an access, by address. [`FlatView::access_parts`] returns this
/// iterator.
#[derive(Debug)]
pub struct AccessParts<'a, H> {
    view: &'a FlatView<H>,
    address: u64,
    left: usize,
    direction: AccessDirection,
}

/// The part of an access that one run answers, or that lies in one hole.
#[derive(Debug)]
#[non_exhaustive]
pub struct AccessPart<'a, H> {
    /// The address of the first byte.
    pub address: u64,
    /// The number of bytes, at least 1. The part does not pass 2^64.
    pub size: usize,
    /// Who answers.
    pub responder: Responder<'a, H>,
}

impl<H> FlatView<H> {
    /// Splits an access of `size` bytes at `address` that exits to the VMM, such as an
    /// MMIO exit of a vCPU, into parts with one responder each.
    ///
    /// An access that spans several runs or holes has a part for each. One that
    /// passes 2^64 continues at address 0. If carrying out a part changes the
    /// view, look the rest up in the new view.
    ///
    /// ```
    /// use memory_model::{AccessDirection, MemoryModel, Region, Responder};
    ///
    /// let mut model: MemoryModel = MemoryModel::new();
    /// let mut t = model.transaction();
    /// let memory = t.add(Region::container("memory", 1 << 64))?;
    /// let uart = t.add(Region::mmio("uart", 0x100))?;
    /// t.place(uart, memory, 0x1000, 0)?;
    /// t.commit()?;
    /// let space = model.add_space("memory", memory)?;
    ///
    /// // A load of 8 bytes: the last 4 of the device, then 4 where nothing is.
    /// let mut data = [0xff; 8];
    /// let mut rest = &mut data[..];
    /// let view = model.view(space);
    /// for part in view.access_parts(0x10fc, 8, AccessDirection::Read) {
    ///     let (bytes, behind) = rest.split_at_mut(part.size);
    ///     rest = behind;
    ///     match part.responder {
    ///         // In a VMM: the device behind the region's handle.
    ///         Responder::Device { run, offset } => {
    ///             assert_eq!((run.id(), offset), (uart, 0xfc));
    ///             bytes.fill(1);
    ///         }
    ///         Responder::Memory { .. } => unreachable!("there is no memory"),
    ///         // Loads that no one answers give all ones.
    ///         _ => {}
    ///     }
    /// }
    /// assert_eq!(data, [1, 1, 1, 1, 0xff, 0xff, 0xff, 0xff]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn access_parts(
        &self,
        address: u64,
        size: usize,
        direction: AccessDirection,
    ) -> AccessParts<'_, H> {
        AccessParts {
            view: self,
            address,
            left: size,
            direction,
        }
    }
}

impl<'a, H> Iterator for AccessParts<'a, H> {
    type Item = AccessPart<'a, H>;

    #[inline]
    fn next(&mut self) -> Option<AccessPart<'a, H>> {
        let most = self.left.checked_sub(1)?;
        let address = self.address;
        let run = self.view.find(address);
        let last = match run {
            Some(run) => run.range().last(),
            None => self.hole_end(most as u64),
        };
        // The part has 1 + `most` bytes, or fewer if the run ends before.
        let more = usize::try_from(last - address).map_or(most, |more| more.min(most));
        let size = more + 1;
        self.address = address.wrapping_add(size as u64);
        self.left -= size;
        Some(AccessPart {
            address,
            size,
            responder: Responder::of(run, address, self.direction),
        })
    }
}

impl<H> FusedIterator for AccessParts<'_, H> {}

impl<H> AccessParts<'_, H> {
    /// The end of the hole at the current address, at most `most` bytes on.
    fn hole_end(&self, most: u64) -> u64 {
        let last = self.address.saturating_add(most);
        let range = AddrRange::from_bounds(self.address, last);
        let next = range.and_then(|range| self.view.intersecting(range).next());
        // No run is at the address itself, so the next run starts above it.
        next.map_or(last, |run| run.range().start() - 1)
    }
}

impl<H> Clone for AccessParts<'_, H> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<H> AccessPart<'_, H> {
    /// The host memory of exactly these bytes, for [`Responder::Memory`].
    pub fn host(&self) -> Option<HostMemory> {
        let Responder::Memory { run, .. } = self.responder else {
            return None;
        };
        let range = AddrRange::new(self.address, self.size as u128)?;
        run.backing_of(range)?.host().cloned()
    }
}

impl<H> Clone for AccessPart<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<H> Copy for AccessPart<'_, H> {}
