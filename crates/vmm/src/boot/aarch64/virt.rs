// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Puts a machine together.

use std::sync::Arc;

use kvm_ioctls::VcpuFd;
use kvm_slots::KvmVm;
use memory_model::{AddrRange, Region};

use super::cpu;
use super::exits::Exits;
use super::gic;
use super::layout::{self, Layout};
use super::loaded::LoadedRam;
use super::port_window::PortWindow;
use super::vm::GuestVm;
use crate::boot::architecture::{Architecture, FixedDevices, place_trapped};
use crate::boot::bus::{GuestSpaces, Handle};
use crate::boot::config::BootConfig;
use crate::boot::error::BootError;
use crate::boot::pci::bus::Ecam;
use crate::boot::pci::windows::PciWindows;

/// A machine with a kernel in RAM.
#[derive(Debug)]
pub struct Virt {
    vm: KvmVm,
    layout: Layout,
    banks: Vec<(AddrRange, Region<Handle>)>,
    vcpus: Vec<VcpuFd>,
}

impl Architecture for Virt {
    const SERIAL_GSI: u32 = layout::SERIAL_GSI;
    type Exits = Exits;

    fn new(config: &BootConfig) -> Result<Self, BootError> {
        let guest = GuestVm::new(&config.kvm_device, config.abi, config.confidential)?;
        let page = rustix::param::page_size() as u64;
        let layout = Layout::new(config.memory, page, guest.processor.physical_bits())?;
        let vcpus = create_vcpus(&guest.vm, config.cpus)?;
        // KVM takes no irqfd before.
        gic::create(guest.vm.fd())?;
        let ram = LoadedRam::new(config, &layout, &vcpus)?;
        if let Some(first) = vcpus.first() {
            cpu::start(first, ram.entry, layout::RAM)?;
        }
        Ok(Self {
            vm: guest.vm,
            layout,
            banks: ram.banks,
            vcpus,
        })
    }

    fn vm(&self) -> &KvmVm {
        &self.vm
    }

    fn pci_windows(&self) -> PciWindows {
        self.layout.pci_windows()
    }

    fn take_ram(&mut self) -> Vec<(AddrRange, Region<Handle>)> {
        std::mem::take(&mut self.banks)
    }

    fn take_vcpus(&mut self) -> Vec<VcpuFd> {
        std::mem::take(&mut self.vcpus)
    }

    /// No VM has private pages.
    fn make_private(&self, _spaces: &GuestSpaces) -> Result<(), BootError> {
        Ok(())
    }

    fn place_devices(
        self,
        spaces: &GuestSpaces,
        devices: &FixedDevices<'_>,
    ) -> Result<Exits, BootError> {
        let ports = spaces.model().reader(spaces.ports);
        let ecam = Arc::new(Ecam::new(Arc::clone(devices.bus)));
        place_trapped(
            spaces,
            spaces.memory_root,
            [
                ("serial port", layout::SERIAL, devices.serial.clone()),
                ("PCI ports", layout::PORTS, Arc::new(PortWindow::new(ports))),
                ("PCI configuration space", layout::ECAM, ecam),
            ],
        )?;
        Ok(Exits)
    }
}

fn create_vcpus(vm: &KvmVm, cpus: u8) -> Result<Vec<VcpuFd>, BootError> {
    let create = |number| {
        cpu::create(vm.fd(), number).map_err(|error| BootError::Vcpu {
            number,
            errno: error.into(),
        })
    };
    (0..cpus).map(create).collect()
}
