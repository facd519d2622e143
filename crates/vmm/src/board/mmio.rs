// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Answers exits: the view finds the region, and the region's handle names the
//! device or the memory.

use kvm_slots::exit::MmioHandler;
use kvm_slots::{Unsupported, Vm};
use memory_model::{AccessDirection, AccessPart, FlatRange, Responder};

use crate::board::Board;
use crate::board::exits::{Answer, Exit};
use crate::board::handle::Handle;
use crate::devices::emulated::{Device, Effect};

impl<V: Vm + Clone + Send + Sync + 'static> MmioHandler for Board<V> {
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        let view = self.model.view(self.space);
        let mut rest = data;
        for part in view.access_parts(gpa, rest.len(), AccessDirection::Read) {
            let (now, later) = rest.split_at_mut(part.size);
            rest = later;
            let by = self.answer_read(part.responder, now);
            self.log(&part, false, by);
        }
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        let mut rest = data;
        let mut at = gpa;
        loop {
            // A device can change the view, so look it up for each part.
            let view = self.model.view(self.space);
            let mut parts = view.access_parts(at, rest.len(), AccessDirection::Write);
            let Some(part) = parts.next() else { return };
            let (now, later) = rest.split_at(part.size);
            let by = self.answer_write(part.responder, now);
            self.log(&part, true, by);
            at = at.wrapping_add(part.size as u64);
            rest = later;
        }
    }
}

impl<V: Vm + Clone + Send + Sync + 'static> Board<V> {
    fn log(&mut self, part: &AccessPart<'_, Handle>, write: bool, by: Answer) {
        self.exits.push(Exit {
            gpa: part.address,
            size: part.size,
            write,
            by,
        });
    }

    fn answer_read(&mut self, responder: Responder<'_, Handle>, data: &mut [u8]) -> Answer {
        // Undriven lines read as ones, as on a bus.
        data.fill(0xff);
        if let Some(why) = refusal(responder) {
            return Answer::Refused(why);
        }
        match responder {
            Responder::Device { run, offset } => {
                self.device(run.region().handle(), |device| device.read(offset, data))
            }
            Responder::Memory { run, offset } => match &run.region().handle().host {
                Some(host) if host.read(offset, data).is_ok() => Answer::Memory,
                _ => Answer::NoHostAddress,
            },
            // Only stores are dropped.
            Responder::PrivateMmio(_) | Responder::ReadOnly(_) => Answer::NoHostAddress,
            Responder::Reservation(_) => Answer::Reserved,
            Responder::Nothing => Answer::Unassigned,
        }
    }

    fn answer_write(&mut self, responder: Responder<'_, Handle>, data: &[u8]) -> Answer {
        if let Some(why) = refusal(responder) {
            return Answer::Refused(why);
        }
        match responder {
            Responder::Device { run, offset } => {
                let mut effect = Effect::None;
                let write = |device: &mut Device| effect = device.write(offset, data);
                let answer = self.device(run.region().handle(), write);
                self.take_effect(run, offset, data, effect)
                    .unwrap_or(answer)
            }
            Responder::Memory { run, offset } => match &run.region().handle().host {
                Some(host) if host.write(offset, data).is_ok() => Answer::Memory,
                _ => Answer::NoHostAddress,
            },
            Responder::ReadOnly(_) => Answer::DroppedRomWrite,
            Responder::PrivateMmio(_) => Answer::NoHostAddress,
            Responder::Reservation(_) => Answer::Reserved,
            Responder::Nothing => Answer::Unassigned,
        }
    }

    fn device(&mut self, handle: &Handle, access: impl FnOnce(&mut Device)) -> Answer {
        match handle
            .device
            .and_then(|number| self.devices.get_mut(number))
        {
            Some(device) => {
                access(device);
                Answer::Device
            }
            None => Answer::Unassigned,
        }
    }

    /// Applies the effect of a write to a device.
    fn take_effect(
        &mut self,
        run: &FlatRange<Handle>,
        offset: u64,
        data: &[u8],
        effect: Effect,
    ) -> Option<Answer> {
        let direct = match effect {
            Effect::None => return None,
            Effect::DirectReads(on) => on,
            Effect::Program => {
                let host = run.region().handle().host.as_ref()?;
                if let Err(error) = host.write(offset, data) {
                    return Some(Answer::EffectFailed(error.to_string()));
                }
                true
            }
        };
        let mut transaction = self.model.transaction();
        if let Err(error) = transaction.set_direct_reads(run.id(), direct) {
            return Some(Answer::EffectFailed(error.to_string()));
        }
        let error = transaction.commit().err()?;
        Some(Answer::EffectFailed(error.to_string()))
    }
}

/// Why this kernel does not support the region that would respond.
fn refusal(responder: Responder<'_, Handle>) -> Option<Unsupported> {
    responder.run()?.region().handle().refused
}
