// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a machine needs of its architecture.

use std::fmt::Debug;
use std::sync::Arc;

use kvm_ioctls::{VcpuExit, VcpuFd};
use kvm_slots::KvmVm;
use memory_model::{AddrRange, Region, RegionId};

use super::bus::{GuestSpaces, Handle, TrapDevice};
use super::config::BootConfig;
use super::error::BootError;
use super::outcome::{End, Outcome};
use super::pci::bus::PciBus;
use super::pci::windows::PciWindows;
use super::serial::SerialPort;

/// The part of a machine that depends on the architecture: the VM, what the kernel
/// starts from, and where devices are.
pub trait Architecture: Debug + Sized {
    /// The GSI of the serial port.
    const SERIAL_GSI: u32;

    /// What answers the exits that only this architecture has.
    type Exits: ExitHandler;

    /// Creates a VM with KVM's interrupt controllers and its vCPUs, and loads the kernel
    /// into RAM. vCPU 0 will start it.
    ///
    /// # Errors
    /// [`BootError`].
    fn new(config: &BootConfig) -> Result<Self, BootError>;

    /// The VM.
    fn vm(&self) -> &KvmVm;

    /// The addresses that the host bridge passes on to the PCI bus.
    fn pci_windows(&self) -> PciWindows;

    /// The banks of RAM with the kernel in them, each with its addresses. The second call
    /// returns none.
    fn take_ram(&mut self) -> Vec<(AddrRange, Region<Handle>)>;

    /// The vCPUs. The second call returns none.
    fn take_vcpus(&mut self) -> Vec<VcpuFd>;

    /// Makes the pages private that a confidential guest starts with. RAM is in the
    /// memory space and has its slots, and no device reaches it yet.
    ///
    /// # Errors
    /// [`BootError`].
    fn make_private(&self, spaces: &GuestSpaces) -> Result<(), BootError>;

    /// Adds the devices that are always there to the guest's spaces.
    ///
    /// # Errors
    /// [`BootError`].
    fn place_devices(
        self,
        spaces: &GuestSpaces,
        devices: &FixedDevices<'_>,
    ) -> Result<Self::Exits, BootError>;
}

/// The devices of every machine.
#[derive(Clone, Copy, Debug)]
pub struct FixedDevices<'a> {
    /// The serial port.
    pub serial: &'a Arc<SerialPort>,
    /// The PCI bus.
    pub bus: &'a Arc<PciBus>,
    /// Where the end of the guest is reported.
    pub end: &'a End,
}

/// Answers exits that only one architecture has, and explains errors.
pub trait ExitHandler: Clone + Debug + Send + 'static {
    /// Answers an exit. Returns whether it was one that this architecture has.
    fn answer(&self, exit: &VcpuExit<'_>) -> bool;

    /// How the guest ended that has reset the machine: `flags` are those of
    /// `KVM_SYSTEM_EVENT_RESET`.
    fn reset(flags: Option<u64>) -> Outcome;

    /// The address of a vCPU's next instruction, or 0 if KVM does not report it.
    fn next_instruction(vcpu: &VcpuFd) -> u64;

    /// `KVM_EXIT_INTERNAL_ERROR` in words, with the instruction if KVM reports it.
    fn internal_error(vcpu: &mut VcpuFd) -> String;

    /// An exit that kvm-ioctls does not decode, in words, if only this architecture has
    /// it.
    fn explain(_vcpu: &mut VcpuFd, _reason: u32) -> Option<String> {
        None
    }
}

/// A name, a start and a size, and the device there.
pub type Trapped<'a> = (&'a str, (u64, u64), Arc<dyn TrapDevice>);

/// Adds regions that trap. They are above BARs, which a guest may place anywhere in
/// PCI's windows.
///
/// # Errors
/// [`BootError::Tree`], [`BootError::Commit`].
pub fn place_trapped<const N: usize>(
    spaces: &GuestSpaces,
    root: RegionId,
    regions: [Trapped<'_>; N],
) -> Result<(), BootError> {
    let mut model = spaces.model();
    let mut t = model.transaction();
    for (name, (start, size), device) in regions {
        let region = Region::mmio(name, size.into()).with_handle(Handle::device(device));
        let region = t.add(region)?;
        t.place(region, root, start, 0)?;
    }
    Ok(t.commit()?)
}
