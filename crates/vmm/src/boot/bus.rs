// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's two address spaces, memory and ports, and the devices that answer
//! trapped accesses to them.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use memory_model::{AccessDirection, FlatView, MemoryModel, RegionId, Responder, SpaceId};

/// A device whose accesses trap to the VMM. Several vCPUs may call it at once.
pub trait TrapDevice: Debug + Send + Sync {
    /// The guest loads `data.len()` bytes, 1 to 8, at `offset` of the region. What
    /// is not filled in reads as ones.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// The guest stores `data`, 1 to 8 bytes, at `offset` of the region.
    fn write(&self, offset: u64, data: &[u8]);
}

/// The VMM's own data of a region.
#[derive(Clone, Debug, Default)]
pub struct Handle {
    /// The device that answers trapped accesses.
    pub device: Option<Arc<dyn TrapDevice>>,
    /// How many accesses of vCPUs the region has answered.
    pub exits: Arc<AtomicU64>,
}

impl Handle {
    /// The handle of a region that traps to a device.
    pub fn device(device: Arc<dyn TrapDevice>) -> Self {
        Self {
            device: Some(device),
            exits: Arc::default(),
        }
    }
}

/// The region tree of a machine with its two address spaces. Clones share it.
#[derive(Clone, Debug)]
pub struct GuestSpaces {
    model: Arc<Mutex<MemoryModel<Handle>>>,
    /// The container of all memory.
    pub memory_root: RegionId,
    /// The container of all ports.
    pub port_root: RegionId,
    /// Guest-physical memory.
    pub memory: SpaceId,
    /// I/O ports.
    pub ports: SpaceId,
}

impl GuestSpaces {
    /// Two address spaces of `model`.
    pub fn new(
        model: MemoryModel<Handle>,
        (memory_root, memory): (RegionId, SpaceId),
        (port_root, ports): (RegionId, SpaceId),
    ) -> Self {
        Self {
            model: Arc::new(Mutex::new(model)),
            memory_root,
            port_root,
            memory,
            ports,
        }
    }

    /// The model, for a transaction. Do not lock it within a [`TrapDevice`] that a
    /// transaction may call.
    pub fn model(&self) -> MutexGuard<'_, MemoryModel<Handle>> {
        // A panic in a transaction leaves the model as it was before.
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model, or `None` while another thread has it.
    pub fn try_model(&self) -> Option<MutexGuard<'_, MemoryModel<Handle>>> {
        match self.model.try_lock() {
            Ok(model) => Some(model),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Answers a load that trapped, by the view that was current when the vCPU left the
/// guest.
pub fn read(view: &FlatView<Handle>, address: u64, data: &mut [u8]) {
    data.fill(0xff);
    let mut rest = data;
    for part in view.access_parts(address, rest.len(), AccessDirection::Read) {
        let (now, later) = rest.split_at_mut(part.size);
        rest = later;
        if let Some((device, offset)) = responder(part.responder) {
            device.read(offset, now);
        }
    }
}

/// Carries out a store that trapped.
pub fn write(view: &FlatView<Handle>, address: u64, data: &[u8]) {
    let mut rest = data;
    for part in view.access_parts(address, rest.len(), AccessDirection::Write) {
        let (now, later) = rest.split_at(part.size);
        rest = later;
        if let Some((device, offset)) = responder(part.responder) {
            device.write(offset, now);
        }
    }
}

/// The device that answers and the offset in its region, and counts the exit. Memory
/// has none. It traps only in a page that it shares with something else, such as a small
/// BAR that the guest places inside a memory BAR: it then reads as ones, and stores are
/// ignored.
fn responder(responder: Responder<'_, Handle>) -> Option<(&Arc<dyn TrapDevice>, u64)> {
    let handle = responder.run()?.region().handle();
    handle.exits.fetch_add(1, Ordering::Relaxed);
    match responder {
        Responder::Device { offset, .. } => Some((handle.device.as_ref()?, offset)),
        _ => None,
    }
}
