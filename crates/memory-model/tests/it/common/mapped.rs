// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A machine with mapped memory of each kind.

use std::sync::Arc;

use memory_model::{
    AddrRange, FileSlice, GuestMemfdSides, HostMemory, Memory, PageState, Region, RegionId,
    SharedMemory,
};
use vm_memory::MmapRegion;

use super::{Machine, bytes, private_mmio, switches};

pub type Shared = SharedMemory<MmapRegion>;

/// RAM of 4 pages, of which one is private.
pub const RAM: u64 = 0;
/// The private page in it.
pub const PRIVATE: u64 = 0x1000;
/// ROM, right behind the RAM.
pub const ROM: u64 = 0x4000;
/// Private MMIO, right behind the ROM.
pub const BAR: u64 = 0x5000;
/// Other RAM, right behind the private MMIO.
pub const MORE: u64 = 0x6000;
/// A ROM device with direct reads, right behind that RAM.
pub const FLASH: u64 = 0x7000;
/// A ROM device without.
pub const BUSY_FLASH: u64 = 0x8000;
/// A device's memory.
pub const DEVICE: u64 = 0x9000;
/// Trapped registers.
pub const MMIO: u64 = 0xa000;
/// RAM that the guest may only read.
pub const READONLY: u64 = 0xb000;
/// RAM at the very end of the space.
pub const LAST: u64 = u64::MAX - 0xfff;

/// So many bytes of real memory, which own their mapping.
pub fn real(size: u64) -> HostMemory {
    let mapping = MmapRegion::<()>::new(usize::try_from(size).unwrap()).unwrap();
    let address = mapping.as_ptr().addr() as u64;
    // SAFETY: the bytes of the mapping are used by no one else.
    unsafe { HostMemory::new(address, size, Arc::new(mapping)) }.unwrap()
}

pub fn page(start: u64) -> AddrRange {
    bytes(start, 0x1000)
}

pub struct Mapped {
    pub m: Machine,
    pub ram: RegionId,
}

impl Mapped {
    pub fn new() -> Self {
        let mut m = Machine::new();
        // One mapping, cut in two.
        let first = real(0x5000);
        let file = FileSlice::new(Arc::new(std::io::stdin()), 0, 0x4000).unwrap();
        let ram = first.slice(0, 0x4000).unwrap();
        let ram = Memory::with_guest_memfd(ram, file, GuestMemfdSides::Both).unwrap();
        let ram = m.put(Region::ram("ram", ram), RAM);
        let memory = || Memory::host_only(real(0x1000));
        let rom = Memory::host_only(first.slice(0x4000, 0x1000).unwrap());
        m.put(Region::rom("rom", rom), ROM);
        m.put(private_mmio("bar", 0x1000), BAR);
        m.put(Region::ram("more", memory()), MORE);
        m.put(Region::rom_device("flash", memory()), FLASH);
        let busy = switches(|s| s.direct_reads = false);
        let flash = Region::rom_device("busy", memory()).with_switches(busy);
        m.put(flash, BUSY_FLASH);
        m.put(Region::device_ram("device", real(0x1000)), DEVICE);
        m.put(Region::mmio("mmio", 0x1000), MMIO);
        let readonly = switches(|s| s.readonly = true);
        let readonly = Region::ram("readonly", memory()).with_switches(readonly);
        m.put(readonly, READONLY);
        m.put(Region::ram("last", memory()), LAST);
        let private = PageState::Private;
        let state = m.model.set_page_state(m.space, page(PRIVATE), private);
        state.unwrap();
        Self { m, ram }
    }

    /// What devices may reach of it.
    pub fn shared(&self) -> Shared {
        let (model, space) = (&self.m.model, self.m.space);
        SharedMemory::of_owners(&model.view(space), model.private(space)).unwrap()
    }
}
