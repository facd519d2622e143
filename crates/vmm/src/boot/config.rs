// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What to boot, and on which machine.

use std::path::PathBuf;

use kvm_slots::AbiProfile;
use vfio_private::device::PciAddress;

/// The arguments of `vmm boot`.
#[derive(Clone, Debug)]
pub struct BootConfig {
    /// The kernel, in the format of the architecture.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: Option<PathBuf>,
    /// Kernel parameters after the VMM's own.
    pub append: String,
    /// The size of RAM in bytes, whole pages of the host.
    pub memory: u64,
    /// The number of vCPUs, at least 1.
    pub cpus: u8,
    /// PCI functions, in the order of their device numbers.
    pub devices: Vec<DeviceConfig>,
    /// The ABI for memslots without a host address.
    pub abi: AbiProfile,
    /// Whether every access to a BAR of an assigned device traps.
    pub trap: bool,
    /// Whether RAM is private. Device registers are private by an `abi`, and only so.
    pub confidential: bool,
    /// The device file of KVM.
    pub kvm_device: PathBuf,
}

/// How the guest reaches the BARs of assigned devices, where nothing has to trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarAccess {
    /// By memslots on the host's mappings.
    HostMapped,
    /// By memslots without a host address.
    Private,
    /// By exits.
    Trapped,
}

impl BootConfig {
    /// How the guest reaches the BARs of assigned devices.
    pub fn bar_access(&self) -> BarAccess {
        match (self.trap, self.abi) {
            (true, _) => BarAccess::Trapped,
            (false, AbiProfile::None) => BarAccess::HostMapped,
            (false, _) => BarAccess::Private,
        }
    }
}

/// A PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceConfig {
    /// A device of the host, assigned with VFIO.
    Assigned(PciAddress),
    /// A function with one BAR of plain shared memory, of this many bytes: a power
    /// of two of at least a page of the host.
    Memory(u64),
}

/// A device of the host is listed twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is given twice: a guest has a device once")]
pub struct AssignedTwice(pub PciAddress);

impl DeviceConfig {
    /// The assigned devices among `devices`, in the same order.
    ///
    /// # Errors
    /// [`AssignedTwice`]: VFIO would open the device again, and two functions would
    /// then share its registers and interrupts.
    pub fn assigned(devices: &[Self]) -> Result<Vec<PciAddress>, AssignedTwice> {
        let mut addresses = Vec::new();
        for device in devices {
            match device {
                Self::Assigned(address) if addresses.contains(address) => {
                    return Err(AssignedTwice(*address));
                }
                Self::Assigned(address) => addresses.push(*address),
                Self::Memory(_) => {}
            }
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_of_the_host_is_assigned_once() {
        let [a, b] = ["0000:01:00.0", "0000:01:00.1"].map(|text| text.parse().unwrap());
        let [first, second] = [a, b].map(DeviceConfig::Assigned);
        let memory = DeviceConfig::Memory(4096);
        let assigned = DeviceConfig::assigned(&[memory, second, memory, first]);
        assert_eq!(assigned, Ok(vec![b, a]));
        let twice = DeviceConfig::assigned(&[first, memory, second, first]);
        assert_eq!(twice, Err(AssignedTwice(a)));
    }
}
