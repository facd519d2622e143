// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device of the host, assigned with VFIO: its BARs as regions, its configuration
//! space, and its interrupts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use guest_ranges::gaps;
use memory_model::{AddrRange, FileSlice, PrivateMmio, Region};
use rustix::param::page_size;
use vfio_private::config::{ConfigError, ConfigSpace};
use vfio_private::device::{Device, DeviceError};
use vfio_private::emulate::{
    EmulateError, GuestConfig, MsiState, MsixChange, MsixControl, MsixTable,
};
use vfio_private::region_info::RegionInfo;
use vfio_private::{
    Access, Bar, BarIndex, BarInput, BarKind, ClassifyError, InputError, Msix, MsixPart, PageSize,
    PageSizeError, Piece, Policy, ReportedRange, TeeKind, classify,
};

use super::bars::{BarError, BarRegions, GuestBars};
use super::function::{EmulatedFunction, FunctionDevice};
use super::messages::{MessageError, Messages};
use super::windows::PciWindows;
use crate::boot::bus::{GuestSpaces, Handle, TrapDevice};
use crate::boot::config::BarAccess;
use crate::boot::conversions::Conversions;
use crate::boot::interrupts::Interrupts;
use crate::boot::notes::Notes;

/// Why a device cannot be assigned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssignError {
    /// VFIO refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Its configuration space is damaged.
    #[error("its configuration space")]
    Config(#[from] ConfigError),
    /// The host's pages have a size that is not known.
    #[error(transparent)]
    Page(#[from] PageSizeError),
    /// A BAR is described wrongly.
    #[error("BAR {bar}")]
    Bar {
        /// Its number.
        bar: u8,
        /// What is wrong.
        source: InputError,
    },
    /// Its configuration space cannot be shown to a guest.
    #[error("its configuration space")]
    Emulate(#[from] EmulateError),
    /// Its BARs cannot be added to the guest's memory.
    #[error("its BARs")]
    Bars(#[from] BarError),
    /// A BAR cannot be cut into what the guest reaches directly and what traps.
    #[error("BAR {bar}")]
    Classify {
        /// Its number.
        bar: u8,
        /// Why not.
        source: ClassifyError,
    },
}

/// An assigned device.
#[derive(Debug)]
pub struct AssignedDevice {
    device: Arc<Device>,
    msix: Option<Msix>,
    notes: Notes,
    conversions: Arc<Conversions>,
    /// One lock for the table and what follows from it.
    interrupts: Mutex<DeviceInterrupts>,
}

#[derive(Debug)]
struct DeviceInterrupts {
    table: Option<MsixTable>,
    messages: Messages,
}

impl AssignedDevice {
    /// Assigns an open device. Its memory decoding is on.
    ///
    /// # Errors
    /// [`AssignError`].
    pub fn new(
        device: Arc<Device>,
        interrupts: Interrupts,
        conversions: Arc<Conversions>,
        notes: Notes,
    ) -> Result<Arc<Self>, AssignError> {
        let msix = ConfigSpace::new(&device.config_space()?)?.msix()?;
        let table = msix.map(MsixTable::new);
        let messages = Messages::new(Arc::clone(&device), interrupts);
        Ok(Arc::new(Self {
            device,
            msix,
            notes,
            conversions,
            interrupts: Mutex::new(DeviceInterrupts { table, messages }),
        }))
    }

    /// The PCI function of the device, which starts with memory decoding off. `access` is for all
    /// pages that need not trap.
    ///
    /// # Errors
    /// [`AssignError`].
    pub fn function(
        self: Arc<Self>,
        spaces: GuestSpaces,
        windows: PciWindows,
        access: BarAccess,
    ) -> Result<EmulatedFunction<Arc<Self>>, AssignError> {
        let config = self.device.config_space()?;
        let regions = self.bars(&config, access)?;
        let bars: Vec<Bar> = regions.iter().map(|regions| regions.bar).collect();
        // The guest switches decoding on. Until then no BAR may show: KVM cannot run a guest that
        // accesses the mapping of one.
        self.device.set_memory_decode(false)?;
        let guest = GuestConfig::new(&self.device.config_space()?, &bars)?;
        let bars = GuestBars::new(spaces, windows, regions)?;
        Ok(EmulatedFunction::new(self, guest, bars))
    }

    fn bars(
        self: &Arc<Self>,
        config: &[u8],
        access: BarAccess,
    ) -> Result<Vec<BarRegions>, AssignError> {
        let page = PageSize::new(page_size() as u64)?;
        let mut bars = Vec::new();
        for index in (0..BarIndex::COUNT).filter_map(|index| BarIndex::new(index).ok()) {
            let mut info = self.device.region(index.get().into())?;
            if access == BarAccess::Trapped {
                info.region = vfio_private::Region::default();
            }
            if info.size == 0 {
                continue;
            }
            let failed = |source| AssignError::Bar {
                bar: index.get(),
                source,
            };
            let register = usize::from(index.get()) * 4 + 0x10;
            let is_io = config.get(register).is_some_and(|byte| byte & 1 != 0);
            let kind = if is_io { BarKind::Io } else { BarKind::Memory };
            let bar = Bar::new(index, kind, info.size).map_err(failed)?;
            let pieces = cut(bar, &info, self.msix, access == BarAccess::Private, page)?;
            bars.push(self.regions(bar, Arc::new(info), &pieces)?);
        }
        Ok(bars)
    }

    fn regions(
        self: &Arc<Self>,
        bar: Bar,
        info: Arc<RegionInfo>,
        pieces: &[Piece],
    ) -> Result<BarRegions, AssignError> {
        let index = bar.index();
        let name = format!("{} BAR {}", self.device.address(), index.get());
        let has_private = pieces.iter().any(|p| p.access() == Access::Private);
        let file = match has_private {
            // One file for the BAR: a memslot takes a slice of it.
            true => Some(Arc::new(
                self.device
                    .export_dma_buf(index.get().into(), &[bar.extent()])?,
            )),
            false => None,
        };
        let mut regions = Vec::new();
        for piece in pieces {
            let (offset, size) = (piece.offset(), piece.size());
            let name = format!("{name} {} {offset:#x}", piece.access());
            let slice = file
                .clone()
                .and_then(|file| FileSlice::new(file, offset, size));
            let region = match (piece.access(), slice) {
                (Access::Private, Some(slice)) => {
                    Region::private_mmio(&name, PrivateMmio::new(slice))
                        .with_handle(Handle::default())
                }
                (Access::Shared, _) => {
                    let mapping = Arc::new(self.device.map(&info, piece.range())?);
                    Region::device_ram(&name, mapping.host_memory()).with_handle(Handle::default())
                }
                (Access::Trap, _) => {
                    let trapped = TrappedPiece {
                        device: Arc::clone(self),
                        region: Arc::clone(&info),
                        bar: index,
                        start: offset,
                    };
                    Region::mmio(&name, size.into()).with_handle(Handle::device(Arc::new(trapped)))
                }
                (Access::Blocked | Access::Private, _) => {
                    Region::reservation(&name, size.into()).with_handle(Handle::default())
                }
            };
            regions.push((offset, region));
        }
        Ok(BarRegions {
            bar,
            container: Region::container(&name, bar.size().into()).with_handle(Handle::default()),
            pieces: regions,
        })
    }

    fn change(&self, interrupts: &mut DeviceInterrupts, changes: Vec<MsixChange>) {
        for change in changes {
            self.note(interrupts.messages.change(change));
        }
    }

    fn note(&self, result: Result<(), MessageError>) {
        if let Err(error) = result {
            let address = self.device.address();
            let error = crate::with_causes(&error);
            self.notes
                .add(format!("{address}: an interrupt is lost: {error}"));
        }
    }

    fn interrupts(&self) -> MutexGuard<'_, DeviceInterrupts> {
        self.interrupts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts a BAR at pages of the host.
fn cut(
    bar: Bar,
    info: &RegionInfo,
    msix: Option<Msix>,
    is_private: bool,
    page: PageSize,
) -> Result<Vec<Piece>, AssignError> {
    let report = match is_private && bar.kind() == BarKind::Memory {
        true => private_pages(bar, msix, page),
        false => Vec::new(),
    };
    let report = (!report.is_empty()).then_some(report.as_slice());
    let input = BarInput::new(bar, &info.region)
        .with_msix(msix)
        .with_report(report);
    classify(&input, page, Policy::new()).map_err(|source| AssignError::Classify {
        bar: bar.index().get(),
        source,
    })
}

/// A report in place of a TDISP interface's, which no device of the lab has: all
/// whole pages are private but those of the MSI-X structures.
fn private_pages(bar: Bar, msix: Option<Msix>, page: PageSize) -> Vec<ReportedRange> {
    if !page.is_aligned(bar.size()) {
        return Vec::new();
    }
    let parts = msix
        .into_iter()
        .flat_map(|msix| [MsixPart::Table, MsixPart::Pba].map(|part| msix.place(part)));
    let parts = parts.filter(|place| place.bar == bar.index());
    let pages = parts.map(|place| page.round_out(place.range));
    let mut trapped: Vec<AddrRange> = pages.collect();
    trapped.sort();
    trapped.dedup();
    let private = gaps(bar.extent(), trapped.iter().copied());
    let tee = private.map(|range| (range, TeeKind::Tee));
    let all = tee.chain(trapped.iter().map(|range| (*range, TeeKind::NonTee)));
    let range = |(range, kind): (AddrRange, _)| {
        ReportedRange::new(range.start(), range.size_u64()?, kind).ok()
    };
    all.filter_map(range).collect()
}

impl FunctionDevice for Arc<AssignedDevice> {
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        // Bytes that cannot be read are all ones.
        let _ = self.device.read_config(offset, data);
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        if let Err(error) = self.device.write_config(offset, data) {
            self.notes.add(crate::with_causes(&error));
        }
    }

    fn config_space(&self) -> Option<Vec<u8>> {
        self.device.config_space().ok()
    }

    fn revoke(&self, bars: &[AddrRange]) {
        for range in bars {
            self.conversions.revoke(*range);
        }
    }

    fn msix(&self, control: MsixControl) {
        let mut interrupts = self.interrupts();
        if let Some(table) = &mut interrupts.table {
            let changes = table.set_control(control);
            self.change(&mut interrupts, changes);
        }
    }

    fn msi(&self, state: Option<MsiState>) {
        let result = self.interrupts().messages.set_msi(state);
        self.note(result);
    }
}

/// A piece of a BAR that traps: MSI-X structures, what shares a page with them, or a
/// BAR that cannot be mapped.
#[derive(Debug)]
struct TrappedPiece {
    device: Arc<AssignedDevice>,
    region: Arc<RegionInfo>,
    bar: BarIndex,
    start: u64,
}

impl TrappedPiece {
    /// Whether an access to the BAR has bytes of the pending bit array.
    fn has_pending_bits(&self, at: u64, len: usize) -> bool {
        let access = AddrRange::new(at, len as u128);
        let pba = self.device.msix.map(|msix| msix.place(MsixPart::Pba));
        let pba = pba.filter(|pba| pba.bar == self.bar);
        pba.zip(access)
            .is_some_and(|(pba, access)| pba.range.overlaps(access))
    }
}

impl TrapDevice for TrappedPiece {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let (at, whole) = (self.start + offset, 0..data.len());
        let mut interrupts = self.device.interrupts();
        let DeviceInterrupts { table, messages } = &mut *interrupts;
        let own = match table {
            Some(table) => {
                // The pending bits are up to date when they are read.
                if self.has_pending_bits(at, data.len()) {
                    let vectors = 0..messages.count();
                    for vector in vectors.filter(|vector| messages.is_pending(*vector)) {
                        let _ = table.signal(vector);
                    }
                }
                table.read(self.bar, at, data)
            }
            None => vec![whole],
        };
        for run in own {
            let offset = at + run.start as u64;
            // Bytes that cannot be read are all ones.
            let _ = self
                .device
                .device
                .read(&self.region, offset, &mut data[run]);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (at, whole) = (self.start + offset, 0..data.len());
        let mut interrupts = self.device.interrupts();
        let own = match &mut interrupts.table {
            Some(table) => {
                let trapped = table.write(self.bar, at, data);
                self.device.change(&mut interrupts, trapped.changes);
                trapped.device
            }
            None => vec![whole],
        };
        for run in own {
            let offset = at + run.start as u64;
            // A device that does not respond loses the store.
            let _ = self.device.device.write(&self.region, offset, &data[run]);
        }
    }
}
