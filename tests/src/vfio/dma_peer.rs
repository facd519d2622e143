// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One device's DMA into another's memory.

use std::sync::Arc;

use guest_ranges::FileSlice;
use vfio_dma::{DmaAccess, DmaObstacle, DmaRange, DmaRefusal};
use vfio_private::AddrRange;
use vfio_private::device::{Device, Mapping, VfioInterface};

use super::edu::{Edu, map, range, unmap};
use super::registers::mapping;
use super::{Model, at, iommu_of, same};
use crate::subject::Arena;

/// The IOVAs of the other device and of memory.
const PEER: u64 = 0x80_0000;
const MEMORY: u64 = 0x10_0000;

/// A container maps the host's mapping of the other device's BAR, and an
/// iommufd a dma-buf. Neither accepts the other kind.
pub(super) fn reaches_a_peer(device: &Device) -> Result<(), String> {
    let peer = Device::open(iommu_of(device), Model::Ivshmem.bound()?);
    let peer = peer.map_err(at("ivshmem"))?;
    let (open, bar) = mapping(&peer, 2)?;
    let bar = Arc::new(bar);
    let edu = Edu::new(device)?;
    let arena = Arc::new(Arena::new(1));
    arena.write(0, b"to peer.").map_err(at("memory"))?;
    let memory = range(MEMORY, &arena, 0, DmaAccess::ReadWrite)?;
    map(device, &memory).map_err(at("memory"))?;
    let size = open.bar.size();

    let by_host = |bar: &Arc<Mapping>| -> Result<_, String> {
        let range = DmaRange::new(PEER, bar.host_memory(), DmaAccess::ReadWrite);
        Ok(iommu_of(device).map_dma(&range.map_err(at("a range"))?))
    };
    let by_file = || -> Result<_, String> {
        let whole = AddrRange::new(0, size.into()).ok_or("a range")?;
        let file = peer.export_dma_buf(2, &[whole]).map_err(at("a dma-buf"))?;
        let file = FileSlice::new(Arc::new(file), 0, size).ok_or("no bytes")?;
        let range = DmaRange::new(PEER, file, DmaAccess::ReadWrite);
        Ok(iommu_of(device).map_dma(&range.map_err(at("a range"))?))
    };
    let seen = || bar.read::<u64>(0x4_0008).map_err(at("a load"));
    let carried = u64::from_le_bytes(*b"to peer.");
    let clear = || bar.write(0x4_0008, 0_u64).map_err(at("a store"));

    clear()?;
    if iommu_of(device).interface() == VfioInterface::LegacyGroup {
        by_host(&bar)?.map_err(at("by host address"))?;
        edu.carry(MEMORY, PEER + 0x4_0008)?;
        return same("ivshmem", seen()?, carried);
    }
    let refused = by_host(&bar)?.map_err(DmaRefusal::obstacle);
    same("by host address", refused, Err(Some(DmaObstacle::NoMemory)))?;
    by_file()?.map_err(at("by dma-buf"))?;
    edu.carry(MEMORY, PEER + 0x4_0008)?;
    same("ivshmem", seen()?, carried)?;

    // Switching decoding off removes the mapping. Switching it on does not
    // restore it.
    peer.set_memory_decode(false).map_err(at("decode"))?;
    let revoked = match by_file()? {
        Err(refusal) => refusal.obstacle(),
        Ok(()) => return Err("what is revoked: mapped".into()),
    };
    same("what is revoked", revoked, Some(DmaObstacle::Revoked))?;
    peer.set_memory_decode(true).map_err(at("decode"))?;
    clear()?;
    edu.carry(MEMORY, PEER + 0x4_0008)?;
    same("through the dead mapping", seen()?, 0)?;
    same("unmapped", unmap(device, PEER, size), Ok(size))?;
    by_file()?.map_err(at("by dma-buf again"))?;
    edu.carry(MEMORY, PEER + 0x4_0008)?;
    same("ivshmem", seen()?, carried)
}
