// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! RAM with a kernel, its initramfs and the device tree in it.

use kvm_ioctls::VcpuFd;
use memory_model::{AddrRange, Memory, Region};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::cpu;
use super::device_tree::{Description, device_tree};
use super::layout::{DEVICE_TREE_SIZE, Layout, RAM};
use super::loader::{self, LoadError};
use crate::boot::bus::Handle;
use crate::boot::config::BootConfig;
use crate::boot::error::BootError;
use crate::boot::files::{CommandLineZero, command_line};
use crate::boot::ram::{Bank, Ram, RamError};

/// The kernel parameters before the user's. A panic resets the machine at once, in
/// another way than a reboot.
const PARAMETERS: &str = "console=ttyS0 panic=-1 reboot=panic_warm";

/// The most bytes of parameters with their terminator (`COMMAND_LINE_SIZE`).
const COMMAND_LINE_SIZE: usize = 2048;

/// Why there is no RAM with a kernel in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadedRamError {
    /// RAM cannot be allocated.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The kernel or the initramfs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The command line does not fit.
    #[error("the command line has {length} bytes, and kernels take {most}")]
    CommandLineTooLong {
        /// The length of the command line.
        length: usize,
        /// The most bytes, without the terminator.
        most: usize,
    },
    /// The command line contains a byte that would end it.
    #[error(transparent)]
    CommandLineZero(#[from] CommandLineZero),
    /// The device tree cannot be made.
    #[error("the device tree cannot be made")]
    Tree(#[source] vm_fdt::Error),
    /// The device tree does not fit.
    #[error("the device tree has {size} bytes, and there is room for {DEVICE_TREE_SIZE}")]
    TreeTooLarge {
        /// Its size.
        size: usize,
    },
    /// The device tree cannot be written.
    #[error("the device tree cannot be written to RAM")]
    WriteTree(#[source] GuestMemoryError),
}

/// RAM with a kernel in it.
#[derive(Debug)]
pub struct LoadedRam {
    /// The bank as a region, at its address.
    pub banks: Vec<(AddrRange, Region<Handle>)>,
    /// The kernel's entry point.
    pub entry: u64,
}

impl LoadedRam {
    /// Loads the kernel for a machine with these vCPUs.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn new(config: &BootConfig, layout: &Layout, vcpus: &[VcpuFd]) -> Result<Self, BootError> {
        let affinities = vcpus.iter().map(cpu::affinity);
        let affinities = affinities.collect::<Result<Vec<_>, _>>()?;
        let first = vcpus.first().map(cpu::page_sizes).transpose()?;
        let pages = first.unwrap_or_default();
        Ok(Self::with(config, layout, &affinities, pages)?)
    }

    fn with(
        config: &BootConfig,
        layout: &Layout,
        vcpus: &[u64],
        pages: cpu::PageSizes,
    ) -> Result<Self, LoadedRamError> {
        let parameters = parameters(&config.append)?;
        let ram = Ram::anonymous([layout.ram])?;
        let memory = ram.guest_memory();
        let (kernel, initrd) = (&config.kernel, config.initrd.as_deref());
        let loaded = loader::load(&memory, kernel, initrd, layout.ram, pages)?;
        let description = Description {
            layout,
            vcpus,
            parameters: &parameters,
            initrd: loaded.initrd,
        };
        let tree = device_tree(description).map_err(LoadedRamError::Tree)?;
        if tree.len() as u64 > DEVICE_TREE_SIZE {
            return Err(LoadedRamError::TreeTooLarge { size: tree.len() });
        }
        let written = memory.write_slice(&tree, GuestAddress(RAM));
        written.map_err(LoadedRamError::WriteTree)?;
        let bank = |bank: &Bank| {
            let memory = Memory::host_only(bank.host_memory());
            let region = Region::ram("ram", memory).with_handle(Handle::default());
            (bank.range(), region)
        };
        Ok(Self {
            banks: ram.banks().iter().map(bank).collect(),
            entry: loaded.entry,
        })
    }
}

/// The VMM's parameters and the user's.
fn parameters(append: &str) -> Result<String, LoadedRamError> {
    let parameters = format!("{PARAMETERS} {append}").trim().to_string();
    let (length, most) = (parameters.len(), COMMAND_LINE_SIZE - 1);
    if length > most {
        return Err(LoadedRamError::CommandLineTooLong { length, most });
    }
    command_line(&parameters)?;
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_linux_would_cut_are_refused() {
        let room = COMMAND_LINE_SIZE - 1 - PARAMETERS.len() - 1;
        assert!(parameters(&"a".repeat(room)).is_ok());
        let error = parameters(&"a".repeat(room + 1)).unwrap_err();
        let expected = "the command line has 2048 bytes, and kernels take 2047";
        assert_eq!(error.to_string(), expected);
        assert!(parameters("a\0b").is_err());
        assert_eq!(parameters("").unwrap(), PARAMETERS);
    }
}
