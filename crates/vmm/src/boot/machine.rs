// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Puts a machine together, and runs it until the guest is over.

use std::io::{self, Write};
use std::sync::Arc;

use kvm_slots::convert::Engine;
use kvm_slots::vcpu_gate::{GateError, GatedVcpu, VcpuGate};
use kvm_slots::{AbiProfile, Errno, KvmVm, SlotListener, Slots};
use memory_model::{
    AddListenerError, AddSpaceError, CommitError, Listener, Memory, MemoryModel, Region, TreeError,
};
use vfio_dma::DmaRefusal;
use vfio_dma::listener::{DmaListener, DmaPolicy};
use vfio_private::device::{Device, DeviceError, Iommu, PciAddress, VfioInterface};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::acpi::{self, AcpiOptions};
use super::bus::{GuestSpaces, Handle, TrapDevice};
use super::config::{BootConfig, DeviceConfig};
use super::conversions::Conversions;
use super::cpu::{self, CpuError};
use super::interrupts::{InterruptError, Interrupts};
use super::layout::{self, Layout, LayoutError};
use super::loader::{self, LoadError};
use super::notes::Notes;
use super::outcome::{End, Outcome};
use super::pci::Function;
use super::pci::assigned::{AssignError, AssignedDevice};
use super::pci::bus::{BusFull, ConfigPorts, Ecam, PciBus};
use super::pci::host_bridge::HostBridge;
use super::pci::memory::{MemoryFunctionError, memory_function};
use super::pci::windows::PciWindows;
use super::power::{KEYBOARD_COMMAND, KeyboardReset, Power};
use super::ram::{Ram, RamError};
use super::serial::SerialPort;
use super::vcpus::{self, ExitContext};
use super::vm::GuestVm;
use crate::backend::kvm::KvmError;

/// The kernel parameters before the user's. A panic resets the machine at once, and
/// leaves the mark by which [`Power`] tells it from a reboot.
const PARAMETERS: &str = "console=ttyS0 panic=-1 reboot=panic_warm";

/// Why a guest cannot be booted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// KVM cannot be used.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// RAM has no place.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// RAM cannot be had.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The kernel or the initramfs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The first page tables cannot be written.
    #[error("there is no RAM for the first page tables")]
    Tables(#[source] GuestMemoryError),
    /// The vCPUs cannot be set up.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// KVM refused a vCPU.
    #[error("KVM refuses vCPU {number}: {errno}")]
    Vcpu {
        /// Its number.
        number: u8,
        /// The error.
        errno: Errno,
    },
    /// The vCPUs cannot be held.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// An interrupt has no route.
    #[error(transparent)]
    Interrupt(#[from] InterruptError),
    /// The region tree does not allow it.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The regions cannot be rendered.
    #[error(transparent)]
    Space(#[from] AddSpaceError),
    /// KVM or the IOMMU refused the memory.
    #[error(transparent)]
    Listener(#[from] AddListenerError),
    /// KVM or the IOMMU refused a change of memory.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// VFIO refused a device.
    #[error("{address} cannot be assigned")]
    Open {
        /// The device.
        address: PciAddress,
        /// Why not.
        source: DeviceError,
    },
    /// A device cannot be assigned.
    #[error("{address} cannot be assigned")]
    Assign {
        /// The device.
        address: PciAddress,
        /// Why not.
        source: AssignError,
    },
    /// The device's memory is out of reach for DMA.
    #[error("devices cannot be given DMA")]
    Dma(#[source] DmaRefusal),
    /// A memory function cannot be made.
    #[error("PCI device {number}")]
    MemoryFunction {
        /// Its number on the bus.
        number: usize,
        /// Why not.
        source: MemoryFunctionError,
    },
    /// The bus has no room.
    #[error(transparent)]
    Bus(#[from] BusFull),
    /// A thread cannot be started.
    #[error("a vCPU's thread cannot be started")]
    Thread(#[source] io::Error),
}

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
        let layout = Layout::new(config.memory, guest.address_bits)?;
        let ram = Ram::anonymous(&layout)?;
        let (end, notes) = (End::default(), Notes::default());
        let interrupts = Interrupts::new(guest.vm.clone());
        let spaces = address_spaces(&ram)?;
        let gate = VcpuGate::new()?;
        let slots = follow(&spaces, &guest.vm, config.abi, gate.clone())?;

        let assigned = open_devices(&config.devices)?;
        let conversions = conversions(&spaces, &guest.vm, assigned.as_ref(), &notes)?;
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
        let power = power(&ram, &end);
        place_devices(&spaces, &serial, &bus, &power)?;

        let options = AcpiOptions {
            io_apic: true,
            ecam: true,
        };
        let tables = acpi::tables(&layout, config.cpus, options);
        let parameters = format!("{PARAMETERS} {} {}", acpi::REBOOT_PARAMETER, config.append);
        let memory = ram.guest_memory();
        let (kernel, initrd) = (&config.kernel, config.initrd.as_deref());
        let loaded = loader::load(&memory, kernel, initrd, parameters.trim(), &layout, &tables)?;
        cpu::write_tables(&memory).map_err(BootError::Tables)?;
        let vcpus = create_vcpus(&guest, config.cpus, &gate, loaded.entry)?;

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

/// Memory with RAM, and ports.
fn address_spaces(ram: &Ram) -> Result<GuestSpaces, BootError> {
    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let memory_root = t.add(Region::container("memory", 1 << 64).with_handle(Handle::default()))?;
    let port_root = t.add(Region::container("ports", 1 << 16).with_handle(Handle::default()))?;
    for bank in ram.banks() {
        let memory = Memory::host_only(bank.host_memory());
        let region = t.add(Region::ram("ram", memory).with_handle(Handle::default()))?;
        t.place(region, memory_root, bank.range().start(), 0)?;
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
    let addresses = devices.iter().filter_map(|device| match device {
        DeviceConfig::Assigned(address) => Some(*address),
        DeviceConfig::Memory(_) => None,
    });
    let addresses: Vec<PciAddress> = addresses.collect();
    let Some(&first) = addresses.first() else {
        return Ok(None);
    };
    let [group, cdev] = VfioInterface::ALL.map(|interface| {
        let addresses = &addresses;
        move || open_all(interface, first, addresses)
    });
    // If both fail, the group's error is the one that more users know.
    group().or_else(|error| cdev().map_err(|_| error)).map(Some)
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

/// Has devices' DMA mappings follow memory and its conversions.
fn conversions(
    spaces: &GuestSpaces,
    vm: &KvmVm,
    assigned: Option<&AssignedDevices>,
    notes: &Notes,
) -> Result<Arc<Conversions>, BootError> {
    let mut engine = Engine::new(vm.clone());
    if let Some(assigned) = assigned {
        let mut model = spaces.model();
        let reader = model.reader(spaces.memory);
        let dma = DmaListener::new(assigned.iommu.clone(), reader, DmaPolicy::default());
        let dma = Arc::new(dma.map_err(BootError::Dma)?);
        model.add_listener(spaces.memory, 1, dma.clone() as Arc<dyn Listener<Handle>>)?;
        engine.add_listener(dma);
    }
    let conversions = Conversions::new(spaces.clone(), engine, notes.clone());
    Ok(Arc::new(conversions))
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
                let function =
                    device.and_then(|device| device.function(spaces, windows, config.abi));
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

/// Power-off and reset, with the BIOS's flag in RAM.
fn power(ram: &Ram, end: &End) -> Arc<Power> {
    let memory = ram.guest_memory();
    let reset_flag = move || memory.read_obj(GuestAddress(layout::RESET_FLAG)).ok();
    Arc::new(Power::new(end.clone(), Box::new(reset_flag)))
}

/// Adds the devices that are always there.
fn place_devices(
    spaces: &GuestSpaces,
    serial: &Arc<SerialPort>,
    bus: &Arc<PciBus>,
    power: &Arc<Power>,
) -> Result<(), BootError> {
    let keyboard = Arc::new(KeyboardReset(power.clone()));
    let config_ports = Arc::new(ConfigPorts::new(Arc::clone(bus)));
    let ports: [(&str, _, Arc<dyn TrapDevice>); 4] = [
        ("serial port", (layout::COM1, 8), serial.clone()),
        ("power", layout::POWER_PORTS, power.clone()),
        ("keyboard controller", (KEYBOARD_COMMAND, 1), keyboard),
        (
            "PCI configuration ports",
            layout::PCI_CONFIG_PORTS,
            config_ports,
        ),
    ];
    let ecam: Arc<dyn TrapDevice> = Arc::new(Ecam::new(Arc::clone(bus)));
    let mut model = spaces.model();
    let mut t = model.transaction();
    // Above the BARs, which a guest may place anywhere.
    const PRIORITY: i32 = 1;
    for (name, (start, count), device) in ports {
        let region = Region::mmio(name, count.into()).with_handle(Handle::device(device));
        let region = t.add(region)?;
        t.place(region, spaces.port_root, start.into(), PRIORITY)?;
    }
    let (start, size) = layout::ECAM;
    let region = Region::mmio("PCI configuration space", size.into());
    let region = t.add(region.with_handle(Handle::device(ecam)))?;
    t.place(region, spaces.memory_root, start, PRIORITY)?;
    Ok(t.commit()?)
}

/// vCPU 0 starts the kernel. The others wait until it starts them.
fn create_vcpus(
    guest: &GuestVm,
    count: u8,
    gate: &VcpuGate,
    entry: u64,
) -> Result<Vec<GatedVcpu>, BootError> {
    let mut vcpus = Vec::new();
    for number in 0..count {
        let refused = |error: kvm_ioctls::Error| BootError::Vcpu {
            number,
            errno: error.into(),
        };
        let vcpu = guest.vm.fd().create_vcpu(number.into());
        let vcpu = vcpu.map_err(refused)?;
        let features = cpu::cpuid(&guest.kvm, number, count)?;
        vcpu.set_cpuid2(&features).map_err(refused)?;
        cpu::set_msrs(&vcpu)?;
        if number == 0 {
            cpu::start(&vcpu, entry)?;
        }
        vcpus.push(gate.vcpu(vcpu)?);
    }
    Ok(vcpus)
}
