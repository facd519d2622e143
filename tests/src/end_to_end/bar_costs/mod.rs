// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What it costs a VMM to give the guest a BAR, by the BAR's size and by how it
//! is given.

mod aligned;
mod bars;
mod page_tables;
mod reader;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_slots::AbiProfile;
use kvm_slots::sim::VmType;
use memory_model::{FileSlice, HostMemory, PrivateMmio, Region};
use vfio_dma::listener::{DmaListener, DmaPolicy, Peers};
use vfio_private::device::{Device, Iommu, VfioInterface};

use self::bars::MemoryBar;
use self::page_tables::page_tables;
use self::reader::Reader;
use super::{at, shown_in_the_host};
use crate::needs::{Host, Need};
use crate::subject::{Gate, ModelMemory, Real};
use crate::vfio::iommu_of;

/// The guest-physical address of the BAR: a multiple of its size, as Linux
/// would choose it.
const GPA: u64 = 64 << 30;
/// The guest loads from every 2 MiB, the span of one lowest page table.
const STRIDE: u64 = 2 << 20;
/// How many times each cost is measured; the least counts.
const ROUNDS: u32 = 5;
/// No round starts after this time.
const LONG: Duration = Duration::from_secs(3);

/// How the guest gets the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// By a memslot on a dma-buf, without a host address.
    Private,
    /// By a memslot on a mapping of the VMM.
    Mapped {
        /// Whether the mapping starts at a multiple of 1 GiB. Otherwise the
        /// kernel chooses the address.
        aligned: bool,
        /// Whether other devices reach the BAR too, by its host address.
        peers: bool,
    },
}

impl By {
    const ALL: [Self; 5] = [
        Self::Private,
        Self::mapped(true, false),
        Self::mapped(true, true),
        Self::mapped(false, false),
        Self::mapped(false, true),
    ];

    const fn mapped(aligned: bool, peers: bool) -> Self {
        Self::Mapped { aligned, peers }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Mapped { aligned, peers } => match (aligned, peers) {
                (true, false) => "aligned",
                (true, true) => "aligned-peers",
                (false, false) => "mapped",
                (false, true) => "mapped-peers",
            },
        }
    }
}

/// What it costs to give the guest a BAR.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// The size of the BAR in bytes.
    pub size: u64,
    /// `private`; or `mapped` or `aligned`, for a mapping at any address or at a
    /// multiple of 1 GiB; `mapped-peers` or `aligned-peers` with DMA mappings.
    pub by: &'static str,
    /// From the open device to the guest's memslot.
    pub given: Duration,
    /// The guest's first load.
    pub first_load: Duration,
    /// A load from every 2 MiB.
    pub loads: Duration,
    /// The bytes of this process's page tables that were added until the guest
    /// had the BAR.
    pub tables_given: u64,
    /// The same when the guest had loaded from every 2 MiB.
    pub tables_loaded: u64,
    /// The number of mappings of the device in this process.
    pub mappings: usize,
}

impl Cost {
    fn min(self, other: Self) -> Self {
        Self {
            given: self.given.min(other.given),
            first_load: self.first_load.min(other.first_load),
            loads: self.loads.min(other.loads),
            tables_given: self.tables_given.min(other.tables_given),
            tables_loaded: self.tables_loaded.min(other.tables_loaded),
            ..self
        }
    }
}

/// Measures all large memory BARs that there are, in all ways that the kernel
/// has. Passes each cost on when it is known.
///
/// # Errors
/// A message that says what is missing or went wrong.
pub fn measure(mut found: impl FnMut(Cost)) -> Result<(), String> {
    let has_private = Host::probe().lacks(Need::BackingFd).is_none();
    for bar in bars::largest_last()? {
        for by in By::ALL {
            if by == By::Private && !has_private {
                continue;
            }
            let what = format!("{:#x} bytes, {}", bar.size, by.word());
            found(least(bar, by).map_err(at(what))?);
        }
    }
    Ok(())
}

fn least(bar: MemoryBar, by: By) -> Result<Cost, String> {
    let start = Instant::now();
    let mut least = once(bar, by)?;
    for _ in 1..ROUNDS {
        if start.elapsed() < LONG {
            least = least.min(once(bar, by)?);
        }
    }
    Ok(least)
}

/// Gives the BAR of a newly opened device to a new guest.
fn once(bar: MemoryBar, by: By) -> Result<Cost, String> {
    let iommu = Iommu::new(VfioInterface::LegacyGroup).map_err(at("VFIO"))?;
    let device = Device::open(&iommu, bar.device).map_err(at(bar.device))?;
    device.set_memory_decode(true).map_err(at("decode on"))?;
    let real = Real::new(VmType::Plain, false)?;
    let mut reader = Reader::new(&real, GPA..GPA + bar.size)?;
    let mut memory = memory(&real, &device, by)?;

    let before = page_tables()?;
    let since = || Ok::<_, String>(page_tables()?.saturating_sub(before));
    let start = Instant::now();
    give(&mut memory, &device, bar, by)?;
    let given = start.elapsed();
    let tables_given = since()?;
    let mappings = shown_in_the_host()?.len();

    let start = Instant::now();
    reader.loads(GPA, STRIDE, 1)?;
    let first_load = start.elapsed();
    let start = Instant::now();
    reader.loads(GPA, STRIDE, bar.size / STRIDE)?;
    let loads = start.elapsed();
    Ok(Cost {
        size: bar.size,
        by: by.word(),
        given,
        first_load,
        loads,
        tables_given,
        tables_loaded: since()?,
        mappings,
    })
}

/// The model of the guest's memory, and what follows it.
fn memory(real: &Real, device: &Device, by: By) -> Result<ModelMemory, String> {
    let abi = match by {
        By::Private => AbiProfile::FD_OFFSET_BIT_4,
        By::Mapped { .. } => AbiProfile::None,
    };
    // SAFETY: `real` is new, and nothing but the model makes slots of its VM
    // besides the reader's. `measure` has checked that the kernel has the patch
    // that gives the flag of `abi` this meaning.
    let mut memory = unsafe { ModelMemory::new(real, abi, &Arc::new(Gate::default())) }?;
    if let By::Mapped { peers: true, .. } = by {
        let reader = memory.model.reader(memory.space);
        let policy = DmaPolicy::default().with_peers(Peers::HostAddress);
        let dma = DmaListener::new(iommu_of(device).clone(), reader, policy).map_err(at("DMA"))?;
        let added = memory.model.add_listener(memory.space, 0, Arc::new(dma));
        added.map_err(|error| vmm::with_causes(&error))?;
    }
    Ok(memory)
}

/// Everything that a VMM does for the guest to reach the BAR.
fn give(memory: &mut ModelMemory, device: &Device, bar: MemoryBar, by: By) -> Result<(), String> {
    let region = match by {
        By::Private => {
            let file = device.export_dma_buf(bar.number, &[bar.extent()?]);
            let file = Arc::new(file.map_err(at("a dma-buf"))?);
            let slice = FileSlice::new(file, 0, bar.size).ok_or("a slice without bytes")?;
            Region::private_mmio("bar", PrivateMmio::new(slice))
        }
        By::Mapped { aligned, .. } => Region::device_ram("bar", mapped(device, bar, aligned)?),
    };
    let mut transaction = memory.model.transaction();
    let region = transaction.add(region).map_err(at("a region"))?;
    let placed = transaction.place(region, memory.root, GPA, 0);
    placed.map_err(at("a region"))?;
    transaction
        .commit()
        .map_err(|error| vmm::with_causes(&error))
}

fn mapped(device: &Device, bar: MemoryBar, is_aligned: bool) -> Result<HostMemory, String> {
    let info = device.region(bar.number).map_err(at("a region"))?;
    if is_aligned {
        return aligned::map(device, &info);
    }
    let mapping = device.map(&info, bar.extent()?).map_err(at("a mapping"))?;
    Ok(Arc::new(mapping).host_memory())
}
