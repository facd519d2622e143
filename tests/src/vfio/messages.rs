// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a device's interrupt to the guest's message: a VMM's emulated MSI-X
//! table, with the real vectors.

use vfio_private::config::ConfigSpace;
use vfio_private::device::Device;
use vfio_private::device::interrupts::{EventFd, InterruptError, MessageKind, Vectors};
use vfio_private::emulate::{
    ConfigEffect, GuestConfig, Message, MsixChange, MsixControl, MsixTable,
};
use vfio_private::{Bar, Msix};

use super::{at, regions, same};

/// The MSI-X control register in the capability, and the bits of its upper
/// byte.
const CONTROL: u64 = 3;
const ENABLE: u8 = 0x80;
const MASK: u8 = 0x40;

/// A VMM with one device.
struct Vmm<'a> {
    device: &'a Device,
    config: GuestConfig,
    /// The offset of the upper byte of the MSI-X control register.
    control: u64,
    msix: Msix,
    table: MsixTable,
    /// An eventfd for each vector. In a VMM it becomes an irqfd when there is a
    /// route.
    listeners: Vec<EventFd>,
    vectors: Option<Vectors<&'a Device>>,
    /// The messages that the guest has received.
    delivered: Vec<Message>,
}

impl<'a> Vmm<'a> {
    fn new(device: &'a Device) -> Result<Self, String> {
        let bars: Vec<Bar> = regions::bars(device)?.iter().map(|open| open.bar).collect();
        let bytes = device.config_space().map_err(at("configuration space"))?;
        let config = ConfigSpace::new(&bytes).map_err(at("configuration space"))?;
        let chain = config.capabilities().map_err(at("capabilities"))?;
        let found = chain.iter().find(|capability| capability.id == 0x11);
        let control = u64::from(found.ok_or("no MSI-X")?.offset) + CONTROL;
        let msix = config.msix().map_err(at("MSI-X"))?.ok_or("no MSI-X")?;
        let table = MsixTable::new(msix);
        let new = |_| EventFd::new(libc::EFD_NONBLOCK).map_err(at("an eventfd"));
        Ok(Self {
            device,
            config: GuestConfig::new(&bytes, &bars).map_err(at("a guest"))?,
            control,
            msix,
            listeners: (0..table.vectors()).map(new).collect::<Result<_, _>>()?,
            table,
            vectors: None,
            delivered: Vec::new(),
        })
    }

    /// The guest writes the control register.
    fn control(&mut self, bits: u8) -> Result<(), String> {
        for effect in self.config.write(self.control, &[bits]) {
            if let ConfigEffect::Msix(control) = effect {
                let changes = self.table.set_control(control);
                self.follow(&changes)?;
            }
        }
        let due = MsixControl {
            enabled: bits & ENABLE != 0,
            function_mask: bits & MASK != 0,
        };
        same("control", self.config.msix(), Some(due))
    }

    /// The guest writes bytes of a vector.
    fn entry(&mut self, vector: u16, offset: u64, data: &[u8]) -> Result<(), String> {
        let place = self.msix.table;
        let offset = place.range.start() + u64::from(vector) * 16 + offset;
        let write = self.table.write(place.bar, offset, data);
        same("what is the device's", write.device.is_empty(), true)?;
        self.follow(&write.changes)
    }

    fn follow(&mut self, changes: &[MsixChange]) -> Result<(), String> {
        for change in changes {
            match *change {
                MsixChange::Enabled { vectors } => {
                    let none = vec![None; vectors.into()];
                    let enabled = Vectors::enable(self.device, MessageKind::Msix, &none);
                    self.vectors = Some(enabled.map_err(at("MSI-X"))?);
                }
                MsixChange::Disabled => self.vectors = None,
                MsixChange::Routed { vector, .. } => self.listen(vector)?,
                // The eventfd stays, and the VMM reads it.
                MsixChange::Unrouted { .. } => {}
                MsixChange::Deliver { message, .. } => self.delivered.push(message),
            }
        }
        Ok(())
    }

    /// Makes a vector signal its eventfd. If it was not allocated, enables all
    /// vectors again.
    fn listen(&mut self, vector: u16) -> Result<(), String> {
        let mut vectors = self.vectors.take().ok_or("MSI-X is off")?;
        let listener = &self.listeners[usize::from(vector)];
        vectors = match vectors.set(vector, &[Some(listener)]) {
            Ok(()) => vectors,
            Err(InterruptError::NotAllocated { .. }) => {
                let all: Vec<_> = self.listeners.iter().map(Some).collect();
                vectors.replace(&all).map_err(at("all vectors"))?
            }
            Err(other) => return Err(other.to_string()),
        };
        self.vectors = Some(vectors);
        Ok(())
    }

    /// The device sends a vector. Returns the guest's message.
    fn send(&mut self, vector: u16) -> Result<Option<Message>, String> {
        let vectors = self.vectors.as_ref().ok_or("MSI-X is off")?;
        vectors.fire(vector).map_err(at("firing"))?;
        let sent = self.listeners[usize::from(vector)].read();
        same("sent", sent.map_err(at("the eventfd"))?, 1)?;
        Ok(self.table.signal(vector))
    }
}

/// A guest sets its vectors up as Linux does, masks them and unmasks them. No
/// interrupt is lost, and each arrives as the message that the guest has set.
pub(super) fn guest_sets_up_its_vectors(device: &Device) -> Result<(), String> {
    let mut vmm = Vmm::new(device)?;
    let last = vmm.table.vectors() - 1;
    // What the guest writes is opaque here: only its interrupt controller knows it.
    let message = |vector: u16| Message {
        address: 0xfee0_0000 | u64::from(vector) << 12,
        data: 0x40 + u32::from(vector),
    };
    vmm.control(ENABLE | MASK)?;
    for vector in [0, last] {
        let Message { address, data } = message(vector);
        vmm.entry(vector, 0, &address.to_le_bytes()[..4])?;
        vmm.entry(vector, 4, &[0; 4])?;
        vmm.entry(vector, 8, &data.to_le_bytes())?;
        vmm.entry(vector, 12, &[0; 4])?;
    }
    vmm.control(ENABLE)?;
    for vector in [0, last] {
        same("what comes", vmm.send(vector)?, Some(message(vector)))?;
    }
    vmm.entry(last, 12, &[1, 0, 0, 0])?;
    same("what comes while it is masked", vmm.send(last)?, None)?;
    same("pending", vmm.table.is_pending(last), true)?;
    same("what comes of the other", vmm.send(0)?, Some(message(0)))?;
    same("delivered", vmm.delivered.len(), 0)?;
    vmm.entry(last, 12, &[0; 4])?;
    same("delivered", vmm.delivered.as_slice(), &[message(last)])?;
    vmm.control(ENABLE | MASK)?;
    same("what comes while all are masked", vmm.send(0)?, None)?;
    vmm.control(ENABLE)?;
    let due = [message(last), message(0)];
    same("delivered", vmm.delivered.as_slice(), &due)?;
    vmm.control(0)?;
    same("vectors", vmm.vectors.is_none(), true)
}
