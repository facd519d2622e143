// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Puts a machine together, and runs it until the guest is over.

use std::io::Write;
use std::sync::Arc;

use guest_ranges::PageRange;
use kvm_slots::convert::{Engine, ModelPages};
use kvm_slots::vcpu_gate::{GatedVcpu, VcpuGate};
use kvm_slots::{AbiProfile, KvmVm, SlotListener, Slots};
use memory_model::{AddrRange, Listener, MemoryModel, Region, RegionId};
use vfio_dma::listener::{DmaListener, DmaPolicy};
use vfio_private::device::{Device, Iommu, PciAddress, VfioInterface};

use super::acpi::{self, AcpiOptions};
use super::bus::{GuestSpaces, Handle, TrapDevice};
use super::confidential;
use super::confidential::doorway::{DOORWAY_PORT, DOORWAY_PORTS, Doorway};
use super::confidential::fault::{FAULT_PORT, FaultPort};
use super::confidential::stub::Hypercall;
use super::config::{BootConfig, DeviceConfig};
use super::conversions::Conversions;
use super::cpu::{self, Start};
use super::dma::{DmaCheck, GuestDma};
use super::error::BootError;
use super::interrupts::Interrupts;
use super::layout::{self, Layout};
use super::loaded::{Kernel, LoadedRam};
use super::notes::Notes;
use super::outcome::{End, Outcome};
use super::pci::Function;
use super::pci::assigned::AssignedDevice;
use super::pci::bus::{ConfigPorts, Ecam, PciBus};
use super::pci::host_bridge::HostBridge;
use super::pci::memory::memory_function;
use super::pci::windows::PciWindows;
use super::power::{KEYBOARD_COMMAND, KeyboardReset, Power};
use super::serial::SerialPort;
use super::vcpus::{self, ExitContext};
use super::vm::GuestVm;
use crate::devices::assigned::by_either_interface;

/// The kernel parameters before the user's. A panic resets the machine at once, and
/// leaves the mark by which [`Power`] tells it from a reboot.
const PARAMETERS: &str = "console=ttyS0 panic=-1 reboot=panic_warm";

/// The size of the units of DMA mappings of memory with a private side. Guests share
/// bounce buffers of many of these at once.
const DMA_UNIT: u64 = 2 << 20;

/// A machine that is ready to run.
#[derive(Debug)]
pub struct Machine {
    /// The guest's address spaces.
    pub spaces: GuestSpaces,
    /// The memslots.
    pub slots: Arc<SlotListener<KvmVm, VcpuGate>>,
    /// The first serial port.
    pub serial: Arc<SerialPort>,
    /// How the guest ends.
    pub end: End,
    /// What the user should know.
    pub notes: Notes,
    /// The guest's interrupts.
    pub interrupts: Interrupts,
    /// The PCI bus.
    pub bus: Arc<PciBus>,
    gate: VcpuGate,
    vcpus: Vec<GatedVcpu>,
    context: ExitContext,
}

impl Machine {
    /// Puts a machine together and loads its kernel. The guest's console goes to
    /// `console`.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn new(config: &BootConfig, console: Box<dyn Write + Send>) -> Result<Self, BootError> {
        let guest = GuestVm::new(&config.kvm_device, config.abi, config.confidential)?;
        let layout = Layout::new(config.memory, guest.processor.physical_bits())?;
        let ram = load(config, &layout, &guest)?;
        let (end, notes) = (End::default(), Notes::default());
        let interrupts = Interrupts::new(guest.vm.clone());
        let spaces = address_spaces(ram.banks)?;
        let gate = VcpuGate::new()?;
        let slots = follow(&spaces, &guest.vm, config.abi, gate.clone())?;
        if let Some(staging) = ram.staging {
            make_private(&spaces, &guest.vm, &layout, staging)?;
        }

        let assigned = open_devices(&config.devices)?;
        let dma = follow_dma(&spaces, assigned.as_ref())?;
        let conversions = conversions(&spaces, &guest.vm, dma, &notes);
        let connections = Connections {
            spaces: &spaces,
            windows: PciWindows::new(&layout),
            interrupts: &interrupts,
            conversions: &conversions,
            notes: &notes,
        };
        let bus = Arc::new(pci_bus(config, assigned, &connections)?);
        let serial = SerialPort::new(interrupts.pin(layout::COM1_GSI)?, console, end.clone());
        let serial = Arc::new(serial);
        let power = Arc::new(Power::new(end.clone(), ram.reset_flag));
        place_ports(&spaces, &serial, &bus, &power)?;
        match config.confidential {
            true => place_confidential_ports(&spaces, &end)?,
            false => place_ecam(&spaces, &bus)?,
        }
        let vcpus = create_vcpus(&guest, config, &gate, ram.start)?;

        let model = spaces.model();
        let context = ExitContext {
            memory: model.reader(spaces.memory),
            ports: model.reader(spaces.ports),
            conversions,
            power,
            end: end.clone(),
        };
        drop(model);
        Ok(Self {
            spaces,
            slots,
            serial,
            end,
            notes,
            interrupts,
            bus,
            gate,
            vcpus,
            context,
        })
    }

    /// What devices reach by DMA; `None` without assigned devices.
    pub fn dma(&self) -> Option<&DmaCheck> {
        self.context.conversions.dma()
    }

    /// Runs the guest until it is over.
    ///
    /// # Errors
    /// [`BootError::Thread`].
    pub fn run(&mut self) -> Result<Outcome, BootError> {
        let mut threads = Vec::new();
        for (number, vcpu) in self.vcpus.drain(..).enumerate() {
            match vcpus::spawn(number, vcpu, self.context.clone()) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    self.gate.stop();
                    return Err(BootError::Thread(error));
                }
            }
        }
        let outcome = self.end.wait();
        self.gate.stop();
        for (number, thread) in threads.into_iter().enumerate() {
            if thread.join().is_err() {
                return Ok(Outcome::Fault(format!(
                    "the thread of vCPU {number} panicked"
                )));
            }
        }
        Ok(outcome)
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

/// Memory with RAM, and ports.
fn address_spaces(banks: Vec<(AddrRange, Region<Handle>)>) -> Result<GuestSpaces, BootError> {
    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let memory_root = t.add(Region::container("memory", 1 << 64).with_handle(Handle::default()))?;
    let port_root = t.add(Region::container("ports", 1 << 16).with_handle(Handle::default()))?;
    for (range, region) in banks {
        let region = t.add(region)?;
        t.place(region, memory_root, range.start(), 0)?;
    }
    t.commit()?;
    let memory = model.add_space("memory", memory_root)?;
    let ports = model.add_space("ports", port_root)?;
    Ok(GuestSpaces::new(
        model,
        (memory_root, memory),
        (port_root, ports),
    ))
}

/// Makes RAM private, but for the staging area. There are no devices yet whose DMA
/// would have to follow.
fn make_private(
    spaces: &GuestSpaces,
    vm: &KvmVm,
    layout: &Layout,
    staging: PageRange,
) -> Result<(), BootError> {
    let mut model = spaces.model();
    let mut pages = ModelPages::new(&mut *model, spaces.memory);
    let engine = Engine::new(vm.clone());
    Ok(confidential::ram::make_private(
        &engine,
        &mut pages,
        layout.ram(),
        staging,
    )?)
}

/// Has the VM's memslots follow the view of memory.
fn follow(
    spaces: &GuestSpaces,
    vm: &KvmVm,
    abi: AbiProfile,
    gate: VcpuGate,
) -> Result<Arc<SlotListener<KvmVm, VcpuGate>>, BootError> {
    // SAFETY: the VM is new, and no one else makes slots of it.
    let slots = unsafe { Slots::new(vm.clone(), abi) };
    let slots = Arc::new(SlotListener::new(slots, gate));
    // Applied last: no one refuses after it.
    spaces
        .model()
        .add_listener(spaces.memory, 0, slots.clone())?;
    Ok(slots)
}

/// The assigned devices, which share an IOMMU address space.
struct AssignedDevices {
    iommu: Iommu,
    devices: Vec<Arc<Device>>,
}

/// Opens the assigned devices: through their groups, which all kernels with VFIO
/// have; if that fails, through their own files.
fn open_devices(devices: &[DeviceConfig]) -> Result<Option<AssignedDevices>, BootError> {
    let addresses = DeviceConfig::assigned(devices)?;
    let Some(&first) = addresses.first() else {
        return Ok(None);
    };
    by_either_interface(|interface| open_all(interface, first, &addresses)).map(Some)
}

fn open_all(
    interface: VfioInterface,
    first: PciAddress,
    addresses: &[PciAddress],
) -> Result<AssignedDevices, BootError> {
    let failed = |address| move |source| BootError::Open { address, source };
    let iommu = Iommu::new(interface).map_err(failed(first))?;
    let mut devices = Vec::new();
    for &address in addresses {
        let device = Device::open(&iommu, address).map_err(failed(address))?;
        // A dma-buf that is exported while decoding is off is revoked.
        device.set_memory_decode(true).map_err(failed(address))?;
        devices.push(Arc::new(device));
    }
    Ok(AssignedDevices { iommu, devices })
}

/// Has devices' DMA mappings follow memory.
fn follow_dma(
    spaces: &GuestSpaces,
    assigned: Option<&AssignedDevices>,
) -> Result<Option<Arc<GuestDma>>, BootError> {
    let Some(assigned) = assigned else {
        return Ok(None);
    };
    let mut model = spaces.model();
    let reader = model.reader(spaces.memory);
    let policy = DmaPolicy::default().with_unit(DMA_UNIT);
    let dma = DmaListener::new(assigned.iommu.clone(), reader, policy);
    let dma = Arc::new(dma.map_err(BootError::Dma)?);
    model.add_listener(spaces.memory, 1, dma.clone() as Arc<dyn Listener<Handle>>)?;
    Ok(Some(dma))
}

/// Has DMA mappings follow conversions too.
fn conversions(
    spaces: &GuestSpaces,
    vm: &KvmVm,
    dma: Option<Arc<GuestDma>>,
    notes: &Notes,
) -> Arc<Conversions> {
    let mut engine = Engine::new(vm.clone());
    let check = dma.map(|dma| {
        let check = Arc::new(DmaCheck::new(dma.clone()));
        engine.add_listener(dma);
        engine.add_listener(check.clone());
        check
    });
    Arc::new(Conversions::new(
        spaces.clone(),
        engine,
        check,
        notes.clone(),
    ))
}

/// What a function of the bus is connected to.
struct Connections<'a> {
    spaces: &'a GuestSpaces,
    windows: PciWindows,
    interrupts: &'a Interrupts,
    conversions: &'a Arc<Conversions>,
    notes: &'a Notes,
}

/// The bus: a host bridge, then the functions in the order of the configuration.
fn pci_bus(
    config: &BootConfig,
    assigned: Option<AssignedDevices>,
    to: &Connections<'_>,
) -> Result<PciBus, BootError> {
    let mut bus = PciBus::new(Arc::new(HostBridge::new()));
    let mut assigned = assigned.into_iter().flat_map(|all| all.devices);
    for (at, device) in config.devices.iter().enumerate() {
        let (spaces, windows) = (to.spaces.clone(), to.windows.clone());
        let function: Arc<dyn Function> = match device {
            DeviceConfig::Memory(size) => {
                let function = memory_function(spaces, windows, *size);
                Arc::new(function.map_err(|source| BootError::MemoryFunction {
                    number: at + 1,
                    source,
                })?)
            }
            DeviceConfig::Assigned(address) => {
                let Some(device) = assigned.next() else {
                    continue;
                };
                let (interrupts, notes) = (to.interrupts.clone(), to.notes.clone());
                let conversions = Arc::clone(to.conversions);
                let device = AssignedDevice::new(device, interrupts, conversions, notes);
                let access = config.bar_access();
                let function = device.and_then(|device| device.function(spaces, windows, access));
                Arc::new(function.map_err(|source| BootError::Assign {
                    address: *address,
                    source,
                })?)
            }
        };
        bus.add(function)?;
    }
    Ok(bus)
}

/// Adds the devices that are always there. They are above BARs, which a guest may
/// place anywhere in PCI's windows.
fn place_ports(
    spaces: &GuestSpaces,
    serial: &Arc<SerialPort>,
    bus: &Arc<PciBus>,
    power: &Arc<Power>,
) -> Result<(), BootError> {
    let keyboard = Arc::new(KeyboardReset(power.clone()));
    let config_ports = Arc::new(ConfigPorts::new(Arc::clone(bus)));
    place_trapped(
        spaces,
        spaces.port_root,
        [
            ("serial port", (layout::COM1.into(), 8), serial.clone()),
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

/// A name, a start and a size, and the device there.
type Trapped<'a> = (&'a str, (u64, u64), Arc<dyn TrapDevice>);

fn place_trapped<const N: usize>(
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

/// vCPU 0 starts the kernel. The others wait until it starts them.
fn create_vcpus(
    guest: &GuestVm,
    config: &BootConfig,
    gate: &VcpuGate,
    start: Start,
) -> Result<Vec<GatedVcpu>, BootError> {
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
            confidential::cpuid::add_leaves(&mut features, vcpu.get_tsc_khz().unwrap_or(0))?;
        }
        vcpu.set_cpuid2(&features).map_err(refused)?;
        cpu::set_msrs(&vcpu)?;
        if number == 0 {
            cpu::start(&vcpu, start)?;
        }
        vcpus.push(gate.vcpu(vcpu)?);
    }
    Ok(vcpus)
}
