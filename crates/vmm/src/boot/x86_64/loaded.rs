// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! RAM with a kernel in it: in place, or in a staging area from which a confidential
//! guest copies it to its private RAM.

use std::io;

use kvm_slots::KvmVm;
use memory_model::{AddrRange, Memory, Region};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::confidential::ram::RamError as PrivateRamError;
use super::confidential::staged::{Staged, StagedError};
use super::confidential::stub::Hypercall;
use super::cpu::{self, Start};
use super::layout::{self, Layout};
use super::loader::{self, LoadError, Loaded};
use super::power::ResetFlag;
use crate::boot::bus::Handle;
use crate::boot::config::BootConfig;
use crate::boot::ram::{Ram, RamError};

/// Why there is no RAM with a kernel in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadedRamError {
    /// RAM cannot be allocated.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Private RAM cannot be allocated.
    #[error(transparent)]
    Private(#[from] PrivateRamError),
    /// The kernel or the initramfs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The first page tables cannot be written.
    #[error("there is no RAM for the first page tables")]
    Tables(#[source] GuestMemoryError),
    /// The kernel cannot be handed to a confidential guest.
    #[error(transparent)]
    Staged(#[from] StagedError),
    /// The staging area cannot be filled.
    #[error("the staging area cannot be filled")]
    Fill(#[source] io::Error),
}

/// RAM with a kernel in it.
pub struct LoadedRam {
    /// The banks as regions, each at its address.
    pub banks: Vec<(AddrRange, Region<Handle>)>,
    /// Where the first vCPU starts.
    pub start: Start,
    /// Reads the BIOS's flag for a warm reset.
    pub reset_flag: ResetFlag,
    /// The only RAM that is shared when the guest starts; `None` if all of it is.
    pub staging: Option<guest_ranges::PageRange>,
}

impl std::fmt::Debug for LoadedRam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedRam")
            .field("banks", &self.banks)
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

/// What the loader loads.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    /// The files.
    pub config: &'a BootConfig,
    /// The kernel parameters.
    pub parameters: &'a str,
    /// The ACPI tables.
    pub tables: &'a [u8],
}

impl Kernel<'_> {
    /// Loads it into `memory`, with the tables that the first vCPU starts with.
    fn load(&self, memory: &GuestMemoryMmap, layout: &Layout) -> Result<Loaded, LoadedRamError> {
        let (kernel, initrd) = (&self.config.kernel, self.config.initrd.as_deref());
        let loaded = loader::load(memory, kernel, initrd, self.parameters, layout, self.tables)?;
        cpu::write_tables(memory).map_err(LoadedRamError::Tables)?;
        Ok(loaded)
    }
}

impl LoadedRam {
    /// Loads the kernel in place.
    ///
    /// # Errors
    /// [`LoadedRamError`].
    pub fn in_place(layout: &Layout, kernel: &Kernel<'_>) -> Result<Self, LoadedRamError> {
        let ram = Ram::anonymous(layout.ram())?;
        let memory = ram.guest_memory();
        let loaded = kernel.load(&memory, layout)?;
        let bank = |bank: &crate::boot::ram::Bank| {
            let memory = Memory::host_only(bank.host_memory());
            let region = Region::ram("ram", memory).with_handle(Handle::default());
            (bank.range(), region)
        };
        Ok(Self {
            banks: ram.banks().iter().map(bank).collect(),
            start: Start {
                rip: loaded.entry,
                cr3: layout::PAGE_TABLES,
            },
            reset_flag: Box::new(move || memory.read_obj(GuestAddress(layout::RESET_FLAG)).ok()),
            staging: None,
        })
    }

    /// Loads the kernel into scratch memory, and packs what was loaded into a staging
    /// area. RAM has a private side.
    ///
    /// # Errors
    /// [`LoadedRamError`].
    pub fn staged(
        layout: &Layout,
        kernel: &Kernel<'_>,
        vm: &KvmVm,
        hypercall: Hypercall,
    ) -> Result<Self, LoadedRamError> {
        let scratch = Ram::anonymous(layout.ram())?.guest_memory();
        let loaded = kernel.load(&scratch, layout)?;
        let staged = Staged::new(&scratch, &loaded, layout, kernel, hypercall)?;
        drop(scratch);
        let mut banks = Vec::new();
        for range in layout.ram() {
            let size = range.size_u64().unwrap_or(u64::MAX);
            let (region, mapping) = super::confidential::ram::region(vm, "ram", size)?;
            if let Some(offset) = staged.area.start().checked_sub(range.start())
                && range.contains(staged.area.start())
            {
                let filled = mapping.write(offset, &staged.bytes);
                filled.map_err(LoadedRamError::Fill)?;
            }
            banks.push((range, region));
        }
        Ok(Self {
            banks,
            start: staged.start,
            // It is in private RAM.
            reset_flag: Box::new(|| None),
            staging: Some(staged.area),
        })
    }
}
