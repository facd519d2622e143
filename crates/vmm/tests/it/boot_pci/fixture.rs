// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A machine with RAM and a PCI bus, whose memslots a simulated KVM has.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{AbiProfile, Op, SlotListener, Slots, VcpusStopped};
use memory_model::{
    AddrRange, Listener, ListenerError, Memory, MemoryModel, Region, SpaceId, Update,
};
use vfio_private::emulate::GuestConfig;
use vfio_private::{Bar, BarIndex, BarKind};
use vmm::HostMapping;
use vmm::boot::bus::{self, GuestSpaces, Handle};
use vmm::boot::pci::Function;
use vmm::boot::pci::bars::{BarRegions, GuestBars};
use vmm::boot::pci::bus::{Ecam, PciBus};
use vmm::boot::pci::config_ports::ConfigPorts;
use vmm::boot::pci::function::FunctionDevice;
use vmm::boot::pci::host_bridge::HostBridge;
use vmm::boot::pci::windows::PciWindows;

/// Registers of configuration space.
pub const COMMAND: u64 = 4;
pub const BAR0: u64 = 0x10;

/// The start of the window below 4 GiB.
pub const WINDOW: u64 = 0xc000_0000;

/// Configuration space in memory, above that window, and its ports.
pub const ECAM: (u64, u64) = (0xe000_0000, 0x10_0000);
pub const PCI_CONFIG_PORTS: (u64, u64) = (0xcf8, 8);

const RAM: u64 = 2 << 20;

/// Counts commits to a space, and refuses them while it is told to.
#[derive(Debug, Default)]
pub struct Watch {
    pub commits: AtomicUsize,
    pub refuses: AtomicBool,
}

impl Listener<Handle> for Watch {
    fn name(&self) -> &str {
        "watch"
    }

    fn prepare(&self, _: &Update<'_, Handle>) -> Result<(), ListenerError> {
        match self.refuses.load(Ordering::SeqCst) {
            true => Err("refused".into()),
            false => Ok(()),
        }
    }

    fn commit(&self, _: &Update<'_, Handle>) {
        self.commits.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Debug)]
pub struct Fixture {
    pub spaces: GuestSpaces,
    pub windows: PciWindows,
    pub slots: Arc<SlotListener<SimVm>>,
    pub watch: Arc<Watch>,
}

/// A window below 4 GiB, one in the upper half of 40 bits, and one for ports.
fn windows() -> PciWindows {
    let range = |start, size: u64| AddrRange::new(start, size.into()).unwrap();
    let memory = [range(WINDOW, ECAM.0 - WINDOW), range(1 << 39, 1 << 39)];
    PciWindows::new(memory, Some(range(0x1000, 0xf000)))
}

impl Fixture {
    /// RAM, and no bus yet.
    pub fn new() -> Self {
        let ram = Arc::new(HostMapping::anonymous(RAM).unwrap());
        let memory = Memory::host_only(ram.host_memory());
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let container = |name, size| Region::container(name, size).with_handle(Handle::default());
        let memory_root = t.add(container("memory", 1 << 64)).unwrap();
        let port_root = t.add(container("ports", 1 << 16)).unwrap();
        let ram = Region::ram("ram", memory).with_handle(Handle::default());
        let ram = t.add(ram).unwrap();
        t.place(ram, memory_root, 0, 0).unwrap();
        t.commit().unwrap();
        let memory = model.add_space("memory", memory_root).unwrap();
        let ports = model.add_space("ports", port_root).unwrap();

        let vm = SimVm::new(SimConfig::released(KernelVersion::V7_3));
        // SAFETY: the mappings are real and live as long as their regions.
        let slots = unsafe { Slots::new(vm, AbiProfile::None) };
        let slots = Arc::new(SlotListener::new(slots, VcpusStopped).keeping_latest_plan());
        let watch = Arc::<Watch>::default();
        model.add_listener(memory, 0, watch.clone()).unwrap();
        model.add_listener(memory, 1, slots.clone()).unwrap();
        Self {
            spaces: GuestSpaces::new(model, (memory_root, memory), (port_root, ports)),
            windows: windows(),
            slots,
            watch,
        }
    }

    /// A bus with the functions as devices 1, 2, …, in both spaces.
    pub fn plug(&self, functions: Vec<Arc<dyn Function>>) {
        let mut bus = PciBus::new(Arc::new(HostBridge::new()));
        for (device, function) in (1..).zip(functions) {
            assert_eq!(bus.add(function), Ok(device));
        }
        let bus = Arc::new(bus);
        let mut model = self.spaces.model();
        let mut t = model.transaction();
        let handle = Handle::device(Arc::new(Ecam::new(bus.clone())));
        let ecam = Region::mmio("ecam", ECAM.1.into()).with_handle(handle);
        let ecam = t.add(ecam).unwrap();
        t.place(ecam, self.spaces.memory_root, ECAM.0, 0).unwrap();
        let handle = Handle::device(Arc::new(ConfigPorts::new(bus)));
        let ports = Region::mmio("cf8", PCI_CONFIG_PORTS.1.into()).with_handle(handle);
        let ports = t.add(ports).unwrap();
        t.place(ports, self.spaces.port_root, PCI_CONFIG_PORTS.0, 0)
            .unwrap();
        t.commit().unwrap();
        drop(model);
        self.slots.take_latest_plan();
    }

    pub fn load<const N: usize>(&self, space: SpaceId, address: u64) -> [u8; N] {
        let view = self.spaces.model().view(space);
        let mut data = [0; N];
        bus::read(&view, address, &mut data);
        data
    }

    pub fn store(&self, space: SpaceId, address: u64, data: &[u8]) {
        let view = self.spaces.model().view(space);
        bus::write(&view, address, data);
    }

    /// A 32-bit register of a device.
    pub fn config_read(&self, device: u64, register: u64) -> u32 {
        let address = ECAM.0 + (device << 15) + register;
        u32::from_le_bytes(self.load(self.spaces.memory, address))
    }

    /// Writes configuration space. Returns the ioctls of the one transaction that this
    /// may take.
    pub fn config_write(&self, device: u64, register: u64, data: &[u8]) -> Vec<&'static str> {
        let before = self.watch.commits.load(Ordering::SeqCst);
        self.store(self.spaces.memory, ECAM.0 + (device << 15) + register, data);
        let plan = self.slots.take_latest_plan();
        let commits = self.watch.commits.load(Ordering::SeqCst) - before;
        assert_eq!(commits, usize::from(plan.is_some()));
        let word = |op: &Op| match op {
            Op::Create(_) => "create",
            Op::Delete(_) => "delete",
            Op::Move { .. } => "move",
            op => panic!("{op:?}"),
        };
        plan.iter().flat_map(|plan| plan.ops()).map(word).collect()
    }

    /// The name of the region at an address.
    pub fn at(&self, space: SpaceId, address: u64) -> Option<String> {
        let view = self.spaces.model().view(space);
        let run = view.find(address)?;
        Some(run.region().name().to_string())
    }
}

/// The shape of the BARs of a [`TestDevice`]: number, kind, size, fixed bits.
pub const BARS: [(u8, BarKind, u64, u8); 3] = [
    (0, BarKind::Memory, 0x4000, 0xc),
    (2, BarKind::Memory, 0x1000, 0),
    (4, BarKind::Io, 0x20, 1),
];

/// A device with the bits of its command register, and what was done to it.
#[derive(Debug)]
pub struct TestDevice {
    config: Mutex<Vec<u8>>,
    /// Whose accepted pages it revokes, if at all.
    pub revokes: Option<GuestSpaces>,
}

impl TestDevice {
    pub fn new() -> Self {
        let mut config = vec![0; 256];
        config[..4].copy_from_slice(&[0x34, 0x12, 0xe8, 0x11]);
        config[0x30..0x34].copy_from_slice(&0xfffe_0001_u32.to_le_bytes());
        config[0x3c..0x3e].copy_from_slice(&[11, 1]);
        for (index, _, _, flags) in BARS {
            config[0x10 + 4 * usize::from(index)] = flags;
        }
        Self {
            config: Mutex::new(config),
            revokes: None,
        }
    }

    pub fn guest(&self) -> GuestConfig {
        Self::guest_of(&self.config.lock().unwrap())
    }

    /// What a guest sees of this configuration space.
    pub fn guest_of(config: &[u8]) -> GuestConfig {
        let bars: Vec<Bar> = BARS.map(|(i, kind, size, _)| bar(i, kind, size)).to_vec();
        GuestConfig::new(config, &bars).unwrap()
    }

    /// BARs of memory and a trapped I/O BAR, each named by its number.
    pub fn bars(fixture: &Fixture) -> GuestBars {
        let regions = BARS.map(|(index, kind, size, _)| {
            let name = format!("bar{index}");
            let piece = match kind {
                BarKind::Memory => {
                    let mapping = Arc::new(HostMapping::anonymous(size).unwrap());
                    Region::device_ram(&name, mapping.host_memory())
                }
                BarKind::Io => Region::mmio(&name, size.into()),
            };
            regions(bar(index, kind, size), piece)
        });
        let (spaces, windows) = (fixture.spaces.clone(), fixture.windows.clone());
        GuestBars::new(spaces, windows, regions.into()).unwrap()
    }
}

impl FunctionDevice for TestDevice {
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        let config = self.config.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let there = config.get(offset..).unwrap_or_default();
        for (byte, from) in data.iter_mut().zip(there) {
            *byte = *from;
        }
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        let mut config = self.config.lock().unwrap();
        for (place, byte) in (offset..).zip(data) {
            if (COMMAND..COMMAND + 2).contains(&place) {
                config[usize::try_from(place).unwrap()] = *byte;
            }
        }
    }

    fn config_space(&self) -> Option<Vec<u8>> {
        Some(self.config.lock().unwrap().clone())
    }

    fn revoke(&self, memory: &[AddrRange]) {
        for range in memory {
            if let Some(spaces) = &self.revokes {
                spaces.model().revoke(spaces.memory, *range);
            }
        }
    }
}

pub fn bar(index: u8, kind: BarKind, size: u64) -> Bar {
    Bar::new(BarIndex::new(index).unwrap(), kind, size).unwrap()
}

/// A BAR of one piece.
pub fn regions(bar: Bar, piece: Region) -> BarRegions {
    BarRegions {
        bar,
        container: Region::container("container", bar.size().into()).with_handle(Handle::default()),
        pieces: vec![(0, piece.with_handle(Handle::default()))],
    }
}
