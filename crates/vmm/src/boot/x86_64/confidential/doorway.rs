// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! MMIO through ports, for a guest whose instructions KVM cannot decode.
//!
//! KVM resolves an access that traps by decoding the instruction, which it cannot do
//! in private memory. So the guest states the access:
//!
//! | port | a store of 4 bytes | a load of 4 bytes |
//! | --- | --- | --- |
//! | 0x610 | the lower half of the address | |
//! | 0x614 | the upper half | |
//! | 0x618 | stores to that address | loads from that address |
//!
//! There is one address, whatever the number of vCPUs: the guest takes a lock for
//! the three accesses. Devices that trap answer. RAM and private MMIO do not, so
//! the doorway is no way to reach memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use memory_model::ViewReader;

use crate::boot::bus::{self, Handle, TrapDevice};

/// The first of [`DOORWAY_PORTS`] ports.
pub const DOORWAY_PORT: u16 = 0x610;
/// The number of ports.
pub const DOORWAY_PORTS: u16 = 12;

/// The offsets of the registers.
const LOW: u64 = 0;
const HIGH: u64 = 4;
const DATA: u64 = 8;

/// The device at [`DOORWAY_PORT`].
#[derive(Debug)]
pub struct Doorway {
    memory: ViewReader<Handle>,
    address: Mutex<u64>,
}

impl Doorway {
    /// A doorway to the devices of this address space.
    pub fn new(memory: ViewReader<Handle>) -> Self {
        Self {
            memory,
            address: Mutex::new(0),
        }
    }

    fn address(&self) -> MutexGuard<'_, u64> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address, without the lock: a device may take its time. Only aligned ones
    /// are answered, so that an access has one device.
    fn target(&self) -> Option<u64> {
        let address = *self.address();
        address.is_multiple_of(4).then_some(address)
    }
}

impl TrapDevice for Doorway {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let (DATA, 4, Some(address)) = (offset, data.len(), self.target()) {
            bus::read(&self.memory.snapshot(), address, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            return;
        };
        match offset {
            LOW => {
                let mut address = self.address();
                *address = *address >> 32 << 32 | u64::from(value);
            }
            HIGH => {
                let mut address = self.address();
                *address = u64::from(value) << 32 | (*address & u64::from(u32::MAX));
            }
            DATA => {
                if let Some(address) = self.target() {
                    bus::write(&self.memory.snapshot(), address, data);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use memory_model::{FileSlice, Memory, MemoryModel, PrivateMmio, Region};

    use super::*;
    use crate::HostMapping;

    const DEVICE: u64 = 0x80_0000_0000;
    const RAM: u64 = 0x1000;
    const PRIVATE: u64 = 0x3000;

    /// Remembers the last store, and answers with its complement.
    #[derive(Debug, Default)]
    struct Complement(Mutex<u32>);

    impl TrapDevice for Complement {
        fn read(&self, offset: u64, data: &mut [u8]) {
            assert_eq!(offset, 8);
            let value = !*self.0.lock().unwrap();
            data.copy_from_slice(&value.to_le_bytes());
        }

        fn write(&self, offset: u64, data: &[u8]) {
            assert_eq!(offset, 8);
            *self.0.lock().unwrap() = u32::from_le_bytes(data.try_into().unwrap());
        }
    }

    fn load(doorway: &Doorway, address: u64) -> u32 {
        aim(doorway, address);
        let mut data = [0xff; 4];
        doorway.read(DATA, &mut data);
        u32::from_le_bytes(data)
    }

    fn store(doorway: &Doorway, address: u64, value: u32) {
        aim(doorway, address);
        doorway.write(DATA, &value.to_le_bytes());
    }

    fn aim(doorway: &Doorway, address: u64) {
        let bytes = address.to_le_bytes();
        doorway.write(LOW, &bytes[..4]);
        doorway.write(HIGH, &bytes[4..]);
    }

    /// A device, RAM and private MMIO, all with a device in their handle.
    fn machine() -> (MemoryModel<Handle>, Doorway, Arc<HostMapping>) {
        let ram = Arc::new(HostMapping::anonymous(0x1000).unwrap());
        let file = Arc::new(OwnedFd::from(File::open("/dev/null").unwrap()));
        let registers = PrivateMmio::new(FileSlice::new(file, 0, 0x1000).unwrap());
        let handle = Handle::device(Arc::new(Complement::default()));
        let mut model = MemoryModel::new();
        let mut change = model.transaction();
        let root = Region::container("memory", 1 << 46).with_handle(Handle::default());
        let root = change.add(root).unwrap();
        for (region, at) in [
            (Region::mmio("device", 0x1000), DEVICE),
            (
                Region::ram("ram", Memory::host_only(ram.host_memory())),
                RAM,
            ),
            (Region::private_mmio("private", registers), PRIVATE),
        ] {
            let id = change.add(region.with_handle(handle.clone())).unwrap();
            change.place(id, root, at, 0).unwrap();
        }
        change.commit().unwrap();
        let space = model.add_space("memory", root).unwrap();
        let doorway = Doorway::new(model.reader(space));
        (model, doorway, ram)
    }

    #[test]
    fn a_device_above_four_gibibytes_answers() {
        let (_model, doorway, _ram) = machine();
        store(&doorway, DEVICE + 8, 0x1234_5678);
        assert_eq!(load(&doorway, DEVICE + 8), !0x1234_5678);
    }

    #[test]
    fn ram_and_private_mmio_never_answer() {
        let (_model, doorway, ram) = machine();
        ram.write(8, &0x5ec2_e700_u64.to_le_bytes()).unwrap();
        for address in [RAM, PRIVATE, 0, u64::MAX - 3] {
            store(&doorway, address + 8 * u64::from(address == RAM), 7);
            assert_eq!(load(&doorway, address), u32::MAX, "{address:#x}");
        }
        assert_eq!(load(&doorway, RAM + 8), u32::MAX);
        let mut kept = [0; 8];
        ram.read(8, &mut kept).unwrap();
        assert_eq!(u64::from_le_bytes(kept), 0x5ec2_e700);
    }

    #[test]
    fn accesses_that_are_not_aligned_dwords_are_ignored() {
        let (_model, doorway, _ram) = machine();
        store(&doorway, DEVICE + 8, 1);
        store(&doorway, DEVICE + 6, 2);
        assert_eq!(load(&doorway, DEVICE + 6), u32::MAX);
        aim(&doorway, DEVICE + 8);
        doorway.write(DATA, &[3, 0]);
        let mut half = [0xff; 2];
        doorway.read(DATA, &mut half);
        assert_eq!(half, [0xff; 2]);
        assert_eq!(load(&doorway, DEVICE + 8), !1);
    }

    #[test]
    fn a_device_that_moved_away_no_longer_answers() {
        let (mut model, doorway, _ram) = machine();
        let (space, _, _) = model.spaces().next().unwrap();
        let region = model.view(space).find(DEVICE).unwrap().id();
        let mut change = model.transaction();
        change.unplace(region).unwrap();
        change.commit().unwrap();
        assert_eq!(load(&doorway, DEVICE + 8), u32::MAX);
    }
}
