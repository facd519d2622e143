// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's code, in memory of its own where nothing else is. The memory is a
//! region of the machine, so the report shows it like any other.

use std::sync::Arc;

use memory_model::{AddrRange, FlatView, Memory, MemoryModel, Region, RegionId, SpaceId};

use super::BoardError;
use super::handle::Handle;
use super::host_mapping::HostMapping;
use super::region_builder::host_handle;
use crate::guest::Code;
use crate::guest::stub::{self, Stub};
use crate::guest::windows::PageTableFormat;
use crate::machine::Access;

/// What the place of the guest's code depends on.
pub(super) struct StubRegion<'a> {
    /// The machine code.
    pub(super) code: Code,
    /// The granularity of memslots.
    pub(super) page_size: u64,
    /// The width of guest-physical addresses, in bits.
    pub(super) bits: u32,
    /// The guest's accesses.
    pub(super) accesses: &'a [Access],
    /// The host's.
    pub(super) hosts: &'a [AddrRange],
}

impl StubRegion<'_> {
    /// Adds the region.
    pub(super) fn add(
        &self,
        model: &mut MemoryModel<Handle>,
        space: SpaceId,
        root: RegionId,
    ) -> Result<Stub, BoardError> {
        let Self { code, bits, .. } = *self;
        let limit = 1_u64.checked_shl(bits).map_or(u64::MAX, |end| end - 1);
        if let Some(access) = self.accesses.iter().find(|access| access.last() > limit) {
            let gpa = access.gpa;
            return Err(BoardError::OutOfReach { gpa, bits });
        }
        let size = stub::size(&code, self.accesses).next_multiple_of(self.page_size);
        let base = self.free_place(&model.view(space), size, limit);
        let base = base.ok_or(BoardError::NoRoom { size })?;
        let stub = stub::compile(&code, self.accesses, base);

        let part = |source: std::io::Error| BoardError::Region {
            region: "guest code".into(),
            source: source.into(),
        };
        let mapping = Arc::new(HostMapping::anonymous(size).map_err(part)?);
        mapping.write(0, &stub.image).map_err(part)?;
        let memory = Memory::host_only(mapping.host_memory());
        let handle = Handle {
            note: "the script as machine code, and its page tables".into(),
            ..host_handle(mapping)
        };
        let mut transaction = model.transaction();
        let region = transaction.add(Region::ram("guest code", memory).with_handle(handle))?;
        // Above everything, so that no step of the script can hide it.
        transaction.place(region, root, base, i32::MAX)?;
        transaction.commit()?;
        Ok(stub)
    }

    /// The highest free place for `size` bytes that no access goes to, of the guest
    /// or of its host: a guest whose code was overwritten may never exit. It starts
    /// with a window, so that few show it.
    fn free_place(&self, view: &FlatView<Handle>, size: u64, limit: u64) -> Option<u64> {
        let busy = view.ranges().map(|run| run.range());
        let touched = self
            .accesses
            .iter()
            .filter_map(|a| AddrRange::new(a.gpa, a.size as u128));
        let mut busy: Vec<AddrRange> = busy
            .chain(touched)
            .chain(self.hosts.iter().copied())
            .collect();
        busy.sort();
        // The gaps between them, by address.
        let mut gaps = Vec::new();
        let mut free_from = Some(0);
        for range in busy {
            let Some(from) = free_from else { break };
            if from < range.start() {
                gaps.push((from, range.start() - 1));
            }
            free_from = range.last().checked_add(1).map(|next| next.max(from));
        }
        gaps.extend(free_from.map(|from| (from, u64::MAX)));
        gaps.into_iter().rev().find_map(|(from, last)| {
            let start = from.checked_next_multiple_of(self.code.window())?;
            let place = AddrRange::new(start, size.into())?;
            (place.last() <= last.min(limit)).then_some(start)
        })
    }
}
