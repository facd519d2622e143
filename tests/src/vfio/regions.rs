// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The regions of a device, and which of their bytes the kernel lets userspace
//! map and export.

use std::sync::Arc;

use memmap2::MmapOptions;
use vfio_private::areas::BarAreas;
use vfio_private::config::ConfigSpace;
use vfio_private::device::{Device, DeviceError, Grain};
use vfio_private::region_info::RegionInfo;
use vfio_private::{
    Access, AddrRange, Bar, BarIndex, BarInput, BarKind, Piece, Policy, Reason, ReportedRange,
    SubPagePolicy, TeeKind, classify,
};

use super::{at, same};
use crate::subject::{host_page_size, host_pages};

/// ivshmem's register with the ID of the peer, in BAR 0.
const IVSHMEM_ID: u64 = 8;

/// A BAR with everything that is known about it.
#[derive(Debug)]
pub(crate) struct OpenBar {
    pub(crate) bar: Bar,
    pub(crate) info: RegionInfo,
    pub(crate) pieces: Vec<Piece>,
}

/// Classifies the BARs of a device, with memory decoding on.
pub(crate) fn bars(device: &Device) -> Result<Vec<OpenBar>, String> {
    device.set_memory_decode(true).map_err(at("decode on"))?;
    let config = device.config_space().map_err(at("configuration space"))?;
    let config = ConfigSpace::new(&config).map_err(at("configuration space"))?;
    let msix = config.msix().map_err(at("MSI-X"))?;
    let mut bars = Vec::new();
    for register in config.bars().map_err(at("BARs"))? {
        let index = register.index;
        let info = device.region(index.get().into()).map_err(at(index))?;
        let bar = Bar::new(index, register.kind, info.size).map_err(at(index))?;
        let input = BarInput::new(bar, &info.region).with_msix(msix);
        let pieces = classify(&input, host_pages(), Policy::new()).map_err(at(index))?;
        bars.push(OpenBar { bar, info, pieces });
    }
    match bars.is_empty() {
        true => Err("it has no BAR".into()),
        false => Ok(bars),
    }
}

/// The reasons that are limits of the kernel. The others are policy.
const KERNELS: [Reason; 4] = [
    Reason::MsixNotMappable,
    Reason::RegionNotMappable,
    Reason::OutsideSparseAreas,
    Reason::IoBar,
];

/// The kernel maps every page except those that are trapped because it would
/// refuse them.
pub(crate) fn pieces_agree_with_mmap(device: &Device) -> Result<(), String> {
    let page_size = host_page_size();
    for OpenBar { bar, info, pieces } in bars(device)? {
        let end = pieces
            .last()
            .map_or(0, |piece| piece.offset() + piece.size());
        same("the pieces' end", end, bar.size())?;
        for piece in pieces {
            let refused = KERNELS
                .iter()
                .any(|reason| piece.reasons().contains(*reason));
            let mut offset = piece.offset();
            let end = piece.offset() + piece.size();
            while offset < end {
                // The rest of a page of a smaller BAR is mapped with it.
                let size = page_size.min(end - offset);
                let page = AddrRange::new(offset, size.into()).ok_or("a page")?;
                let mapped = device.map(&info, page);
                if mapped.is_ok() == refused {
                    return Err(format!(
                        "{} {} of {piece}: {mapped:?}",
                        bar.index(),
                        page.dashed()
                    ));
                }
                offset += page_size;
            }
        }
    }
    Ok(())
}

/// Pages that are not shared are not mapped, even if the kernel would map them,
/// as the MSI-X table's page.
pub(crate) fn only_shared_pieces_are_mapped(device: &Device) -> Result<(), String> {
    let (mut shared, mut others) = (0, 0);
    for OpenBar { bar, pieces, .. } in bars(device)? {
        for piece in pieces {
            match (piece.access(), device.map_piece(bar.index(), piece)) {
                (Access::Shared, Ok(mapping)) if mapping.size() == piece.size() => shared += 1,
                (Access::Trap, Err(DeviceError::WrongAccess { .. })) => others += 1,
                (_, result) => return Err(format!("{piece}: {result:?}")),
            }
        }
    }
    match shared > 0 && others > 0 {
        true => Ok(()),
        false => Err(format!("{shared} shared pieces and {others} others")),
    }
}

/// An expanded BAR is mapped with the rest of its page, by the area and by the piece.
/// It traps, and no byte behind it is mapped, if VFIO could not reserve the rest.
pub(crate) fn an_expanded_bar_is_a_whole_page(device: &Device) -> Result<(), String> {
    let OpenBar { bar, info, .. } = bar(device, 0)?;
    let (index, page) = (bar.index(), host_pages());
    let input = BarInput::new(bar, &info.region);
    let policy = Policy::new().with_sub_page(SubPagePolicy::Expand);
    let areas = BarAreas::carve(&input, page, policy).map_err(at(index))?;
    same("that it is smaller", bar.size() < page.bytes(), true)?;
    let Some(area) = areas.mapped().next() else {
        same("VFIO's mmap flag", info.region.mmap, false)?;
        let (offset, len, size) = (0, page.bytes(), bar.size());
        let due = Err(DeviceError::Outside { offset, len, size });
        let mapped = device.map(&info, page.page_of(0)).map(|_| ());
        return same("a mapping", mapped, due);
    };
    same("its pages", area.pages(), page.page_of(0))?;
    let mappings = [
        device.map(&info, area.pages()).map_err(at("its area"))?,
        device
            .map_piece(index, area.piece())
            .map_err(at("its piece"))?,
    ];
    let mut trapped = [0; 4];
    device
        .read(&info, IVSHMEM_ID, &mut trapped)
        .map_err(at("a load"))?;
    for mapping in mappings {
        same("the size", mapping.size(), page.bytes())?;
        let loaded = mapping.read::<u32>(IVSHMEM_ID);
        same("the register", loaded, Ok(u32::from_le_bytes(trapped)))?;
    }
    Ok(())
}

/// Refused without a system call.
pub(crate) fn outside_is_refused(device: &Device) -> Result<(), String> {
    for OpenBar { bar, info, .. } in bars(device)? {
        let size = bar.size();
        let outside = |offset, len| DeviceError::Outside { offset, len, size };
        let due = Err(outside(size - 2, 4));
        same(
            "a read",
            device.read(&info, size - 2, &mut [0; 4]),
            due.clone(),
        )?;
        same("a write", device.write(&info, size - 2, &[0; 4]), due)?;
        let beyond = size + host_page_size();
        let range = AddrRange::new(0, beyond.into()).ok_or("a range")?;
        let mapped = device.map(&info, range).map(|_| ());
        same("a mapping", mapped, Err(outside(0, beyond)))?;
    }
    let none = device.region(device.regions() + 100);
    match none {
        Err(DeviceError::Ioctl {
            errno: libc::EINVAL,
            ..
        }) => Ok(()),
        other => Err(format!("a region that is not there: {other:?}")),
    }
}

/// Only whole pages of a memory BAR can be exported as a dma-buf.
pub(crate) fn dma_bufs(device: &Device) -> Result<(), String> {
    let (has, page) = (device.can_export(), host_page_size());
    for OpenBar { bar, .. } in bars(device)? {
        let region = u32::from(bar.index().get());
        let is_whole = bar.kind() == BarKind::Memory && bar.size() % page == 0;
        let export = |ranges: &[AddrRange]| match device.export_dma_buf(region, ranges) {
            Ok(_) => None,
            Err(error) => error.errno(),
        };
        let due = |if_whole| match (has, is_whole) {
            (false, _) => Some(libc::ENOTTY),
            (true, false) => Some(libc::EINVAL),
            (true, true) => if_whole,
        };
        let name = |what: &str| format!("{}, {what}", bar.index());
        let last = AddrRange::new(bar.size().saturating_sub(page), page.into()).ok_or("a range")?;
        let past = AddrRange::new(bar.size(), page.into()).ok_or("a range")?;
        let odd = AddrRange::new(0, 0x10).ok_or("a range")?;
        let invalid = Some(libc::EINVAL);
        same(&name("all"), export(&[bar.extent()]), due(None))?;
        same(&name("its last page"), export(&[last]), due(None))?;
        same(&name("a page past it"), export(&[past]), due(invalid))?;
        same(&name("16 bytes"), export(&[odd]), due(invalid))?;
        same(&name("nothing"), export(&[]), due(invalid))?;
        if has && is_whole {
            private_pieces(device, bar)?;
        }
    }
    let rom = device.export_dma_buf(6, &[AddrRange::new(0, page.into()).ok_or("a range")?]);
    let due = if has { libc::ENODEV } else { libc::ENOTTY };
    same(
        "the ROM",
        rom.err().and_then(|error| error.errno()),
        Some(due),
    )
}

/// If the first and the last page are private, they are two files or slices of
/// one. No such file can be mapped.
fn private_pieces(device: &Device, bar: Bar) -> Result<(), String> {
    let size = host_page_size();
    let page = |offset| ReportedRange::new(offset, size, TeeKind::Tee);
    let mut tee = vec![page(0).map_err(at("a page"))?];
    // Separate from the first page.
    if bar.size() > 2 * size {
        tee.push(page(bar.size() - size).map_err(at("a page"))?);
    }
    let info = device
        .region(bar.index().get().into())
        .map_err(at(bar.index()))?;
    let input = BarInput::new(bar, &info.region).with_report(Some(&tee));
    let pieces = classify(&input, host_pages(), Policy::new()).map_err(at(bar.index()))?;
    for grain in [Grain::Piece, Grain::Bar] {
        let exported = device.export_private(bar, &pieces, grain);
        let exported = exported.map_err(at(format!("{}, {grain:?}", bar.index())))?;
        same("the number of slices", exported.len(), tee.len())?;
        for slice in &exported {
            let offset = match grain {
                Grain::Bar => slice.piece.offset(),
                _ => 0,
            };
            same("the slice's offset", slice.offset, offset)?;
            let is_alone = !Arc::ptr_eq(&slice.file, &exported[0].file);
            let is_first = slice.piece == exported[0].piece;
            same(
                "a file of its own",
                is_alone,
                grain == Grain::Piece && !is_first,
            )?;
            let mapped = MmapOptions::new().len(1).map_raw(&*slice.file);
            if mapped.is_ok() {
                return Err(format!("the file of {} can be mapped", slice.piece));
            }
        }
    }
    Ok(())
}

/// A BAR of an open device, by its number.
pub(crate) fn bar(device: &Device, number: u8) -> Result<OpenBar, String> {
    let index = BarIndex::new(number).map_err(at(number))?;
    let mut all = bars(device)?.into_iter();
    all.find(|open| open.bar.index() == index)
        .ok_or_else(|| format!("there is no {index}"))
}
