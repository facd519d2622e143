// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Interrupts as eventfds: triggered by VFIO, and by devices that interrupt on
//! request.

use std::thread;
use std::time::{Duration, Instant};

use vfio_private::config::ConfigSpace;
use vfio_private::device::Device;
use vfio_private::device::interrupts::{
    EventFd, InterruptError, InterruptKind, Intx, MessageKind, Notification, NotificationKind,
    Vectors,
};

use super::registers::{FACTORIAL, STATUS};
use super::{at, regions, same};

/// edu's registers: the raised interrupts, one to raise interrupts, and one to
/// acknowledge them. The bit of its status that requests an interrupt after a
/// computation, and that interrupt.
const EDU_RAISED: u64 = 0x24;
const EDU_RAISE: u64 = 0x60;
const EDU_TAKE_BACK: u64 = 0x64;
const EDU_TELL: u32 = 0x80;
const EDU_COMPUTED: u32 = 1;

/// The network card's registers (Intel 82574 datasheet, 10.2.4): interrupt
/// cause read, cause set, mask set, mask clear and vector allocation, and the
/// causes of MSI-X.
const ICR: u64 = 0xc0;
const ICS: u64 = 0xc8;
const IMS: u64 = 0xd0;
const IMC: u64 = 0xd8;
const IVAR: u64 = 0xe4;
const CAUSES: u32 = 20;

/// Non-blocking eventfds.
fn listeners(count: u16) -> Result<Vec<EventFd>, String> {
    let new = |_| EventFd::new(libc::EFD_NONBLOCK).map_err(at("an eventfd"));
    (0..count).map(new).collect()
}

/// The events that have arrived by now.
fn arrived(listener: &EventFd) -> u64 {
    listener.read().unwrap_or(0)
}

/// Waits for an event.
fn arrives(what: &str, listener: &EventFd) -> Result<(), String> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        match arrived(listener) {
            0 => thread::yield_now(),
            1 => return Ok(()),
            more => return Err(format!("{what} arrived {more} times")),
        }
    }
    Err(format!("{what} never arrived"))
}

/// Gives unexpected events time to arrive.
fn stays_quiet(what: &str, listener: &EventFd) -> Result<(), String> {
    thread::sleep(Duration::from_millis(20));
    same(what, arrived(listener), 0)
}

fn some(listeners: &[EventFd]) -> Vec<Option<&EventFd>> {
    listeners.iter().map(Some).collect()
}

/// Triggers every vector and notification of every kind. A vector that does not exist is refused
/// with its own error.
pub(super) fn by_loopback(device: &Device) -> Result<(), String> {
    let vectors = |kind| {
        let info = device.interrupt_info(kind).map_err(at(kind))?;
        Ok::<_, String>(info.vectors)
    };
    line_by_loopback(device, vectors(InterruptKind::Intx)?)?;
    messages_by_loopback(device, MessageKind::Msi, vectors(InterruptKind::Msi)?)?;
    messages_by_loopback(device, MessageKind::Msix, vectors(InterruptKind::Msix)?)?;
    // The host can ask for any device. Not all kernels report errors of a device without PCI Express.
    same("requests", vectors(InterruptKind::Request)?, 1)?;
    notifications_by_loopback(device, NotificationKind::Request, 1)?;
    let errors = vectors(InterruptKind::Error)?;
    same("errors", errors > 0 || !is_express(device)?, true)?;
    notifications_by_loopback(device, NotificationKind::Error, errors)
}

/// Whether the device has the capability of PCI Express.
fn is_express(device: &Device) -> Result<bool, String> {
    let config = device.config_space().map_err(at("configuration space"))?;
    let chain = ConfigSpace::new(&config).and_then(ConfigSpace::capabilities);
    let chain = chain.map_err(at("configuration space"))?;
    Ok(chain.iter().any(|capability| capability.id == 0x10))
}

/// A notification arrives beside interrupts, and only while it is enabled.
fn notifications_by_loopback(
    device: &Device,
    which: NotificationKind,
    count: u16,
) -> Result<(), String> {
    let kind = InterruptKind::from(which);
    let address = device.address();
    let listeners = listeners(2)?;
    let notification = Notification::enable(device, which, &listeners[0]);
    if count == 0 {
        let due = InterruptError::None { address, kind };
        return same("notifications", notification.err(), Some(due));
    }
    let notification = notification.map_err(at(kind))?;
    notification.fire().map_err(at(kind))?;
    arrives("the notification", &listeners[0])?;
    let again = Notification::enable(device, which, &listeners[1]).err();
    let enabled = InterruptError::Enabled {
        address,
        kind,
        enabled: kind,
    };
    same("a second notification", again, Some(enabled))?;
    let messages = device.interrupt_info(InterruptKind::Msi);
    if messages.map_err(at("MSI"))?.vectors > 0 {
        let vectors = Vectors::enable(device, MessageKind::Msi, &[Some(&listeners[1])]);
        let vectors = vectors.map_err(at("messages beside"))?;
        vectors.fire(0).map_err(at("messages beside"))?;
        arrives("a message beside", &listeners[1])?;
    }
    notification.set_trigger(&listeners[1]).map_err(at(kind))?;
    notification.fire().map_err(at(kind))?;
    arrives("the notification elsewhere", &listeners[1])?;
    same("where it was", arrived(&listeners[0]), 0)?;
    drop(notification);
    let again = Notification::enable(device, which, &listeners[0]).map_err(at(kind))?;
    again.fire().map_err(at(kind))?;
    arrives("the notification enabled again", &listeners[0])
}

fn line_by_loopback(device: &Device, vectors: u16) -> Result<(), String> {
    let kind = InterruptKind::Intx;
    let address = device.address();
    let listeners = listeners(2)?;
    let line = Intx::enable(device, &listeners[0]);
    if vectors == 0 {
        return same(
            "a line",
            line.err(),
            Some(InterruptError::None { address, kind }),
        );
    }
    let line = line.map_err(at("a line"))?;
    let info = device.interrupt_info(kind).map_err(at(kind))?;
    same("masks", (info.maskable, info.automasked), (true, true))?;
    line.fire().map_err(at("firing"))?;
    arrives("the line", &listeners[0])?;
    let again = Intx::enable(device, &listeners[1]).err();
    let enabled = InterruptError::Enabled {
        address,
        kind,
        enabled: kind,
    };
    same("a second line", again, Some(enabled))?;
    line.set_trigger(&listeners[1]).map_err(at("another"))?;
    line.fire().map_err(at("firing"))?;
    arrives("the line elsewhere", &listeners[1])?;
    same("where it was", arrived(&listeners[0]), 0)
}

fn messages_by_loopback(device: &Device, which: MessageKind, count: u16) -> Result<(), String> {
    let kind = InterruptKind::from(which);
    let address = device.address();
    let all = listeners(count.max(1))?;
    let vectors = Vectors::enable(device, which, &some(&all));
    if count == 0 {
        let due = InterruptError::None { address, kind };
        return same("messages", vectors.err(), Some(due));
    }
    let vectors = vectors.map_err(at(kind))?;
    same("allocated", vectors.allocated(), count)?;
    for (number, listener) in (0..).zip(&all) {
        vectors.fire(number).map_err(at(kind))?;
        arrives(&format!("vector {number}"), listener)?;
    }
    let past = InterruptError::NoSuchVector {
        address,
        kind,
        vector: count.into(),
        vectors: count,
    };
    same("past the last", vectors.fire(count), Err(past.clone()))?;
    let line = Intx::enable(device, &all[0]).err();
    let enabled = InterruptError::Enabled {
        address,
        kind: InterruptKind::Intx,
        enabled: kind,
    };
    if device
        .interrupt_info(InterruptKind::Intx)
        .is_ok_and(|info| info.vectors > 0)
    {
        same("a line beside", line, Some(enabled))?;
    }
    drop(vectors);
    let too_many = listeners(count + 1)?;
    let refused = Vectors::enable(device, which, &some(&too_many)).err();
    same("too many", refused, Some(past))?;
    grows(device, which, &all)
}

/// Enables vectors that were not allocated, one by one or all again.
fn grows(device: &Device, which: MessageKind, all: &[EventFd]) -> Result<(), String> {
    let kind = InterruptKind::from(which);
    let info = device.interrupt_info(kind).map_err(at(kind))?;
    let mut vectors = Vectors::enable(device, which, &[None]).map_err(at(kind))?;
    let silent = InterruptError::Silent {
        address: device.address(),
        kind,
        vector: 0,
    };
    same("nobody listens", vectors.fire(0), Err(silent))?;
    if all.len() > 1 {
        let added = vectors.set(1, &some(&all[1..]));
        let refused = InterruptError::NotAllocated {
            address: device.address(),
            kind,
            vector: 1,
            allocated: 1,
        };
        let due = if info.resizable { Ok(()) } else { Err(refused) };
        same("more vectors", added, due)?;
        if !info.resizable {
            vectors = vectors.replace(&some(all)).map_err(at(kind))?;
        }
    }
    vectors.set(0, &[Some(&all[0])]).map_err(at(kind))?;
    for (number, listener) in (0..).zip(all) {
        vectors.fire(number).map_err(at(kind))?;
        arrives(&format!("vector {number} of more"), listener)?;
    }
    vectors.set(0, &[None]).map_err(at(kind))?;
    match vectors.fire(0) {
        Err(InterruptError::Silent { vector: 0, .. }) => Ok(()),
        other => Err(format!("a vector that lost its eventfd: {other:?}")),
    }
}

/// Reads and writes the registers of a device's BAR 0.
#[derive(Debug)]
struct Registers<'a> {
    device: &'a Device,
    open: regions::OpenBar,
}

impl<'a> Registers<'a> {
    /// Also enables bus mastering, because messages are writes.
    fn new(device: &'a Device) -> Result<Self, String> {
        let open = regions::bar(device, 0)?;
        device
            .write_config(4, &[6, 0])
            .map_err(at("bus mastering"))?;
        Ok(Self { device, open })
    }

    fn read(&self, offset: u64) -> Result<u32, String> {
        let mut register = [0; 4];
        let read = self.device.read(&self.open.info, offset, &mut register);
        read.map_err(at(format!("{offset:#x}")))?;
        Ok(u32::from_le_bytes(register))
    }

    fn write(&self, offset: u64, value: u32) -> Result<(), String> {
        let bytes = value.to_le_bytes();
        let written = self.device.write(&self.open.info, offset, &bytes);
        written.map_err(at(format!("{offset:#x}")))
    }
}

/// edu raises an interrupt on request, and after a computation.
pub(super) fn edu_sends_messages(device: &Device) -> Result<(), String> {
    let edu = Registers::new(device)?;
    let listener = listeners(1)?.remove(0);
    let vectors = Vectors::enable(device, MessageKind::Msi, &[Some(&listener)]);
    let vectors = vectors.map_err(at("MSI"))?;
    for bits in [1, 0x100, 0x8000_0000] {
        edu.write(EDU_RAISE, bits)?;
        arrives("what edu was told to raise", &listener)?;
        same("what is raised", edu.read(EDU_RAISED)?, bits)?;
        edu.write(EDU_TAKE_BACK, bits)?;
        same("what is left", edu.read(EDU_RAISED)?, 0)?;
    }
    edu.write(STATUS, EDU_TELL)?;
    edu.write(FACTORIAL, 5)?;
    arrives("that 5! is there", &listener)?;
    same("why", edu.read(EDU_RAISED)?, EDU_COMPUTED)?;
    same("5!", edu.read(FACTORIAL)?, 120)?;
    edu.write(EDU_TAKE_BACK, EDU_COMPUTED)?;
    edu.write(STATUS, 0)?;
    drop(vectors);
    edu.write(EDU_RAISE, 1)?;
    stays_quiet("a message that is switched off", &listener)?;
    edu.write(EDU_TAKE_BACK, 1)
}

/// edu asserts its line until the interrupt is acknowledged. The kernel masks
/// the line at each interrupt.
pub(super) fn edu_holds_its_line(device: &Device) -> Result<(), String> {
    let info = device.interrupt_info(InterruptKind::Intx);
    if info.map_err(at("INTx"))?.vectors == 0 {
        return Err("there is no line".into());
    }
    let edu = Registers::new(device)?;
    let listeners = listeners(2)?;
    let line = Intx::enable(device, &listeners[0]).map_err(at("a line"))?;
    edu.write(EDU_RAISE, 2)?;
    arrives("the line", &listeners[0])?;
    stays_quiet("a line that masked itself", &listeners[0])?;
    line.unmask().map_err(at("unmasking"))?;
    arrives("a line that is still held", &listeners[0])?;
    edu.write(EDU_TAKE_BACK, 2)?;
    line.unmask().map_err(at("unmasking"))?;
    stays_quiet("a line that is let go", &listeners[0])?;

    line.mask().map_err(at("masking"))?;
    edu.write(EDU_RAISE, 4)?;
    stays_quiet("a masked line", &listeners[0])?;
    line.unmask().map_err(at("unmasking"))?;
    arrives("what was masked", &listeners[0])?;

    // As KVM does after the guest has served the interrupt.
    let served = EventFd::new(0).map_err(at("an eventfd"))?;
    line.unmask_by(Some(&served)).map_err(at("unmasking"))?;
    served.write(1).map_err(at("a signal"))?;
    arrives("a line that was served too early", &listeners[0])?;
    edu.write(EDU_TAKE_BACK, 4)?;
    served.write(1).map_err(at("a signal"))?;
    stays_quiet("a line that was served", &listeners[0])?;
    edu.write(EDU_RAISE, 8)?;
    arrives("the next one", &listeners[0])?;
    edu.write(EDU_TAKE_BACK, 8)?;
    line.unmask_by(None).map_err(at("no more unmasking"))
}

/// The card sends the vectors that its causes are mapped to.
pub(super) fn e1000e_sends_vectors(device: &Device) -> Result<(), String> {
    let card = Registers::new(device)?;
    // Clear old causes: the card sends only new ones.
    card.write(IMC, u32::MAX)?;
    card.write(ICR, u32::MAX)?;
    let listeners = listeners(5)?;
    let vectors = Vectors::enable(device, MessageKind::Msix, &some(&listeners));
    let vectors = vectors.map_err(at("MSI-X"))?;
    // Five causes: two for receiving, two for sending, one for everything else.
    // Each has four bits: the vector, and whether it is valid.
    let routes = (0..5).fold(0, |bits, cause| bits | (8 | (4 - cause)) << (4 * cause));
    card.write(IVAR, routes)?;
    card.write(IMS, 0x1f << CAUSES)?;
    for cause in 0..5_u16 {
        card.write(ICS, 1 << (CAUSES + u32::from(cause)))?;
        let due = usize::from(4 - cause);
        arrives(&format!("vector {due}"), &listeners[due])?;
        let others = listeners.iter().map(arrived).sum();
        same("other vectors", others, 0)?;
    }
    // A timer of the card delays an interrupt that follows another one too
    // soon. QEMU 7.2 aborts if MSI-X is disabled before the timer has expired.
    let quiet = |what: &'static str| {
        let mut all = listeners.iter();
        all.try_for_each(|listener| stays_quiet(what, listener))
    };
    quiet("a vector that has arrived")?;
    drop(vectors);
    card.write(ICS, 1 << CAUSES)?;
    quiet("a vector that is switched off")?;
    card.write(IMC, u32::MAX)?;
    card.write(ICR, u32::MAX)
}
