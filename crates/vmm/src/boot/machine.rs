// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Puts a machine together, and runs it until the guest is over.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_slots::convert::{Engine, Home, PrivateStays};
use kvm_slots::vcpu_gate::{GatedVcpu, VcpuGate};
use kvm_slots::{AbiProfile, KvmVm, SlotListener, Slots};
use memory_model::{AddrRange, Listener, MemoryModel, Region};
use vfio_dma::listener::{DmaListener, DmaPolicy};
use vfio_private::device::{Device, Iommu, PciAddress, VfioInterface};

use super::architecture::{Architecture, FixedDevices};
use super::bus::{GuestSpaces, Handle};
use super::config::{BootConfig, DeviceConfig};
use super::console::Console;
use super::conversions::Conversions;
use super::dma::{DmaCheck, GuestDma};
use super::error::BootError;
use super::interrupts::{Interrupts, Requester};
use super::native::Native;
use super::notes::Notes;
use super::outcome::{End, Outcome};
use super::pci::Function;
use super::pci::assigned::AssignedDevice;
use super::pci::bus::PciBus;
use super::pci::host_bridge::HostBridge;
use super::pci::memory::memory_function;
use super::pci::windows::PciWindows;
use super::serial::SerialPort;
use super::vcpus::{self, ExitContext};

use crate::devices::assigned::by_either_interface;
use crate::devices::vfio_files::VfioFiles;

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

/// How long vCPUs have to stop. A write to a device of the host may take longer, and the user
/// must be able to leave.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

impl Machine {
    /// Puts a machine together and loads its kernel. The guest's console goes to
    /// `console`.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn new(config: &BootConfig, console: OwnedFd) -> Result<Self, BootError> {
        let mut native = Native::new(config)?;
        let vm = native.vm().clone();
        let (end, notes) = (End::default(), Notes::default());
        let interrupts = Interrupts::new(vm.clone());
        let spaces = address_spaces(native.take_ram())?;
        let gate = VcpuGate::new()?;
        let slots = follow(&spaces, &vm, config.abi, gate.clone())?;
        native.make_private(&spaces)?;

        let assigned = open_devices(&config.devices, &vm)?;
        let dma = follow_dma(&spaces, assigned.as_ref())?;
        let conversions = conversions(&spaces, &vm, &slots, dma, &notes)?;
        let connections = Connections {
            spaces: &spaces,
            windows: native.pci_windows(),
            interrupts: &interrupts,
            conversions: &conversions,
            notes: &notes,
        };
        let bus = Arc::new(pci_bus(config, assigned, &connections)?);
        let interrupt = interrupts.pin(Native::SERIAL_GSI)?;
        let console = Console::new(console, end.clone(), notes.clone());
        let serial = SerialPort::new(interrupt, Box::new(console), end.clone());
        let serial = Arc::new(serial);
        let vcpus = native.take_vcpus().into_iter().map(|vcpu| gate.vcpu(vcpu));
        let vcpus = vcpus.collect::<Result<_, _>>()?;
        let devices = FixedDevices {
            serial: &serial,
            bus: &bus,
            end: &end,
        };
        let own = native.place_devices(&spaces, &devices)?;

        let model = spaces.model();
        let context = ExitContext {
            memory: model.reader(spaces.memory),
            ports: model.reader(spaces.ports),
            conversions,
            own,
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

    /// Runs the guest until it is over. A vCPU that does not stop within 5 seconds is left to
    /// end with the process, and is noted.
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
        let ends = join_within(threads, STOP_TIMEOUT);
        for number in numbers(&ends, ThreadEnd::Running) {
            let seconds = STOP_TIMEOUT.as_secs();
            self.notes.add(format!(
                "vCPU {number} did not stop within {seconds} s: it still waits for a device or the \
                 console"
            ));
        }
        let panicked = numbers(&ends, ThreadEnd::Panicked).next();
        let panicked =
            panicked.map(|number| Outcome::Fault(format!("the thread of vCPU {number} panicked")));
        Ok(panicked.unwrap_or(outcome))
    }
}

/// What has become of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ThreadEnd {
    Returned,
    Panicked,
    /// It had not ended in time.
    Running,
}

/// Joins all threads that end before the timeout, which is for all together.
fn join_within(threads: Vec<JoinHandle<()>>, timeout: Duration) -> Vec<ThreadEnd> {
    let deadline = Instant::now() + timeout;
    let join = |thread: JoinHandle<()>| {
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        match thread.is_finished().then(|| thread.join()) {
            Some(Ok(())) => ThreadEnd::Returned,
            Some(Err(_)) => ThreadEnd::Panicked,
            None => ThreadEnd::Running,
        }
    };
    threads.into_iter().map(join).collect()
}

/// The numbers of the threads with this end.
fn numbers(ends: &[ThreadEnd], wanted: ThreadEnd) -> impl Iterator<Item = usize> {
    let all = ends.iter().enumerate();
    all.filter_map(move |(number, end)| (*end == wanted).then_some(number))
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
/// have; if that fails, through their own files. KVM has each file in its list before the
/// device is opened.
fn open_devices(
    devices: &[DeviceConfig],
    vm: &KvmVm,
) -> Result<Option<AssignedDevices>, BootError> {
    let addresses = DeviceConfig::assigned(devices)?;
    let Some(&first) = addresses.first() else {
        return Ok(None);
    };
    let files = Arc::new(VfioFiles::new(vm.fd())?);
    let open = |interface| open_all(interface, first, &addresses, &files);
    by_either_interface(open).map(Some)
}

fn open_all(
    interface: VfioInterface,
    first: PciAddress,
    addresses: &[PciAddress],
    files: &Arc<VfioFiles>,
) -> Result<AssignedDevices, BootError> {
    let failed = |address| move |source| BootError::Open { address, source };
    let iommu = Iommu::with_registry(interface, files.clone()).map_err(failed(first))?;
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
    slots: &Arc<SlotListener<KvmVm, VcpuGate>>,
    dma: Option<Arc<GuestDma>>,
    notes: &Notes,
) -> Result<Arc<Conversions>, BootError> {
    let home = Home::probe(vm).map_err(BootError::PageState)?;
    // Before all others, so that they need no rollback.
    let stays = Arc::new(PrivateStays::new(home));
    spaces.model().add_listener(spaces.memory, -1, stays)?;
    let mut engine = Engine::new(vm.clone(), home);
    engine.add_listener(slots.clone());
    let check = dma.map(|dma| {
        let check = Arc::new(DmaCheck::new(dma.clone()));
        engine.add_listener(dma);
        engine.add_listener(check.clone());
        check
    });
    let (spaces, notes) = (spaces.clone(), notes.clone());
    Ok(Arc::new(Conversions::new(spaces, engine, check, notes)))
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
                let interrupts = to.interrupts.of_function(requester(at));
                let notes = to.notes.clone();
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

/// The function at this place of the configuration: device 0 is the host bridge. Numbers
/// beyond the bus do not matter, because there is no room for the function.
fn requester(at: usize) -> Requester {
    Requester::device(u8::try_from(at + 1).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_panics_does_not_hide_those_after_it() {
        let (go_on, waits) = mpsc::channel::<()>();
        let threads = vec![
            thread::spawn(|| panic!("expected")),
            thread::spawn(|| thread::sleep(Duration::from_millis(20))),
            thread::spawn(move || waits.recv().unwrap_or(())),
        ];
        let ends = join_within(threads, Duration::from_millis(500));
        let [panicked, returned, running] =
            [ThreadEnd::Panicked, ThreadEnd::Returned, ThreadEnd::Running];
        assert_eq!(ends, [panicked, returned, running]);
        assert!(numbers(&ends, running).eq([2]));
        drop(go_on);
    }
}
