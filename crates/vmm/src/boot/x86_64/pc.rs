// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Puts a PC together.

use std::sync::Arc;

use guest_ranges::PageRange;
use kvm_ioctls::VcpuFd;
use kvm_slots::KvmVm;
use kvm_slots::convert::{Engine, Home, ModelPages};
use memory_model::{AddrRange, Region};

use super::acpi::{self, AcpiOptions};
use super::confidential;
use super::confidential::doorway::{DOORWAY_PORT, DOORWAY_PORTS, Doorway};
use super::confidential::fault::{FAULT_PORT, FaultPort};
use super::confidential::stub::Hypercall;
use super::cpu::{self, CpuError, Start};
use super::exits::Exits;
use super::layout::{self, Layout};
use super::loaded::{Kernel, LoadedRam};
use super::power::{KEYBOARD_COMMAND, KeyboardReset, Power, ResetFlag};
use super::vm::GuestVm;
use crate::boot::architecture::{Architecture, FixedDevices, place_trapped};
use crate::boot::bus::{GuestSpaces, Handle, TrapDevice};
use crate::boot::config::BootConfig;
use crate::boot::error::BootError;
use crate::boot::outcome::End;
use crate::boot::pci::bus::{Ecam, PciBus};
use crate::boot::pci::config_ports::ConfigPorts;
use crate::boot::pci::windows::PciWindows;

/// The kernel parameters before the user's. A panic resets the machine at once, and
/// leaves the mark by which [`Power`] tells it from a reboot.
const PARAMETERS: &str = "console=ttyS0 panic=-1 reboot=panic_warm";

/// A PC with a kernel in RAM.
#[derive(Debug)]
pub struct Pc {
    vm: KvmVm,
    layout: Layout,
    banks: Vec<(AddrRange, Region<Handle>)>,
    vcpus: Vec<VcpuFd>,
    memory: StartMemory,
}

/// What else is to be known of RAM when the guest starts.
struct StartMemory {
    reset_flag: ResetFlag,
    /// The only pages that are shared, of a confidential guest.
    staging: Option<PageRange>,
}

impl std::fmt::Debug for StartMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = f.debug_struct("StartMemory");
        text.field("staging", &self.staging).finish_non_exhaustive()
    }
}

impl Architecture for Pc {
    const SERIAL_GSI: u32 = layout::COM1_GSI;
    type Exits = Exits;

    fn new(config: &BootConfig) -> Result<Self, BootError> {
        let guest = GuestVm::new(&config.kvm_device, config.abi, config.confidential)?;
        let layout = Layout::new(config.memory, guest.processor.physical_bits())?;
        let ram = load(config, &layout, &guest)?;
        let vcpus = create_vcpus(&guest, config, ram.start)?;
        Ok(Self {
            vm: guest.vm,
            layout,
            banks: ram.banks,
            vcpus,
            memory: StartMemory {
                reset_flag: ram.reset_flag,
                staging: ram.staging,
            },
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

    /// All of RAM, but for the staging area.
    fn make_private(&self, spaces: &GuestSpaces) -> Result<(), BootError> {
        let Some(staging) = self.memory.staging else {
            return Ok(());
        };
        let mut model = spaces.model();
        let mut pages = ModelPages::new(&mut *model, spaces.memory);
        let home = Home::probe(&self.vm).map_err(BootError::PageState)?;
        let engine = Engine::new(self.vm.clone(), home);
        let ram = self.layout.ram();
        Ok(confidential::ram::make_private(
            &engine, &mut pages, ram, staging,
        )?)
    }

    fn place_devices(
        self,
        spaces: &GuestSpaces,
        devices: &FixedDevices<'_>,
    ) -> Result<Exits, BootError> {
        let StartMemory {
            reset_flag,
            staging,
        } = self.memory;
        let power = Arc::new(Power::new(devices.end.clone(), reset_flag));
        place_ports(spaces, devices, &power)?;
        match staging {
            Some(_) => place_confidential_ports(spaces, devices.end)?,
            None => place_ecam(spaces, devices.bus)?,
        }
        Ok(Exits { power })
    }
}

/// RAM with the kernel in it.
fn load(config: &BootConfig, layout: &Layout, guest: &GuestVm) -> Result<LoadedRam, BootError> {
    // In a confidential guest, nothing may trap but what the kernel knows of.
    let options = AcpiOptions {
        io_apic: !config.confidential,
        ecam: !config.confidential,
    };
    let tables = acpi::tables(layout, config.cpus, options);
    let parameters = format!("{PARAMETERS} {} {}", acpi::REBOOT_PARAMETER, config.append);
    let kernel = Kernel {
        config,
        parameters: parameters.trim(),
        tables: &tables,
    };
    Ok(match config.confidential {
        true => {
            let hypercall = Hypercall::of(guest.processor.cpuid());
            LoadedRam::staged(layout, &kernel, &guest.vm, hypercall)?
        }
        false => LoadedRam::in_place(layout, &kernel)?,
    })
}

/// vCPU 0 starts the kernel. The others wait until it starts them.
fn create_vcpus(
    guest: &GuestVm,
    config: &BootConfig,
    start: Start,
) -> Result<Vec<VcpuFd>, BootError> {
    let mut vcpus = Vec::new();
    for number in 0..config.cpus {
        let refused = |error: kvm_ioctls::Error| BootError::Vcpu {
            number,
            errno: error.into(),
        };
        let vcpu = guest.vm.fd().create_vcpu(number.into());
        let vcpu = vcpu.map_err(refused)?;
        cpu::set_tsc_frequency(&vcpu)?;
        let mut features = cpu::cpuid(&guest.kvm, guest.processor.cpuid(), number, config.cpus)?;
        if config.confidential {
            let tsc_khz = vcpu.get_tsc_khz().unwrap_or(0);
            confidential::cpuid::add_leaves(&mut features, tsc_khz).map_err(CpuError::from)?;
        }
        vcpu.set_cpuid2(&features).map_err(refused)?;
        cpu::set_msrs(&vcpu)?;
        if number == 0 {
            cpu::start(&vcpu, start)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

fn place_ports(
    spaces: &GuestSpaces,
    devices: &FixedDevices<'_>,
    power: &Arc<Power>,
) -> Result<(), BootError> {
    let keyboard = Arc::new(KeyboardReset(power.clone()));
    let config_ports = Arc::new(ConfigPorts::new(Arc::clone(devices.bus)));
    place_trapped(
        spaces,
        spaces.port_root,
        [
            (
                "serial port",
                (layout::COM1.into(), 8),
                devices.serial.clone(),
            ),
            ("power", wide(layout::POWER_PORTS), power.clone()),
            (
                "keyboard controller",
                (KEYBOARD_COMMAND.into(), 1),
                keyboard,
            ),
            (
                "PCI configuration ports",
                wide(layout::PCI_CONFIG_PORTS),
                config_ports,
            ),
        ],
    )
}

/// Adds configuration space in memory.
fn place_ecam(spaces: &GuestSpaces, bus: &Arc<PciBus>) -> Result<(), BootError> {
    let ecam: Arc<dyn TrapDevice> = Arc::new(Ecam::new(Arc::clone(bus)));
    let region = ("PCI configuration space", layout::ECAM, ecam);
    place_trapped(spaces, spaces.memory_root, [region])
}

/// Adds what a confidential guest has in place of accesses that trap.
fn place_confidential_ports(spaces: &GuestSpaces, end: &End) -> Result<(), BootError> {
    let reader = spaces.model().reader(spaces.memory);
    let doorway: Arc<dyn TrapDevice> = Arc::new(Doorway::new(reader));
    let faults: Arc<dyn TrapDevice> = Arc::new(FaultPort(end.clone()));
    place_trapped(
        spaces,
        spaces.port_root,
        [
            ("MMIO doorway", wide((DOORWAY_PORT, DOORWAY_PORTS)), doorway),
            ("boot faults", (FAULT_PORT.into(), 4), faults),
        ],
    )
}

fn wide((start, count): (u16, u16)) -> (u64, u64) {
    (start.into(), count.into())
}
